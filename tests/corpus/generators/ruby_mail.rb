# The mail gem from Debian (ruby-mail), as Rails' Action Mailer uses it: ruby ruby_mail.rb OUT
require 'mail'; require 'json'; require 'base64'
cases = JSON.parse(File.read(File.join(__dir__, 'cases.json'), encoding: 'utf-8'))
party = ->(p) { a = Mail::Address.new(p['email']); a.display_name = p['name'] unless p['name'].empty?; a.format }
cases.each do |name, c|
  m = Mail.new
  m.charset = 'UTF-8'
  m.from = party.(c['from']); m.to = c['to'].map(&party)
  m.cc = c['cc'].map(&party) if c['cc']
  m.reply_to = party.(c['reply']) if c['reply']
  m.subject = c['subject']
  (c['headers'] || {}).each { |k, v| m.header[k] = v }
  if c['html']
    m.text_part = Mail::Part.new { content_type 'text/plain; charset=UTF-8'; body c['text'] }
    m.html_part = Mail::Part.new { content_type 'text/html; charset=UTF-8'; body c['html'] }
  elsif c['attachments']
    m.text_part = Mail::Part.new { content_type 'text/plain; charset=UTF-8'; body c['text'] }
  else
    m.body = c['text']
  end
  (c['inline'] || []).each do |f|
    m.attachments.inline[f['filename']] = {mime_type: f['contentType'], content: Base64.decode64(f['content'])}
    m.attachments[f['filename']].content_id = "<#{f['cid']}>"
  end
  (c['attachments'] || []).each { |f| m.attachments[f['filename']] = {mime_type: f['contentType'], content: Base64.decode64(f['content'])} }
  File.binwrite(File.join(ARGV[0], "ruby-mail-#{name}.eml"), m.to_s.gsub(/\r?\n/, "\r\n"))
end
