// nodemailer, emailjs, mimetext: npm install nodemailer emailjs mimetext; NODE_PATH=$PWD/node_modules node nodemailer.cjs OUT
const fs = require('fs'), path = require('path');
const cases = JSON.parse(fs.readFileSync(path.join(__dirname, 'cases.json')));
const out = process.argv[2];
const write = (lib, name, raw) => fs.writeFileSync(path.join(out, `${lib}-${name}.eml`),
  Buffer.from(Buffer.from(raw).toString('latin1').replace(/\r?\n/g, '\r\n'), 'latin1'));
const party = p => p.name ? {name: p.name, address: p.email} : p.email;
(async () => {
  const nodemailer = require('nodemailer');
  const transport = nodemailer.createTransport({streamTransport: true, buffer: true, newline: 'windows'});
  for (const [name, c] of Object.entries(cases)) {
    const mail = {from: party(c.from), to: c.to.map(party), subject: c.subject, text: c.text, html: c.html,
      attachments: [...(c.inline || []).map(f => ({filename: f.filename, cid: f.cid, content: f.content, encoding: 'base64',
        contentType: f.contentType, contentDisposition: 'inline'})),
        ...(c.attachments || []).map(f => ({filename: f.filename, content: f.content, encoding: 'base64', contentType: f.contentType}))]};
    if (c.cc) mail.cc = c.cc.map(party);
    if (c.reply) mail.replyTo = party(c.reply);
    if (c.headers) mail.headers = c.headers;
    write('nodemailer', name, (await transport.sendMail(mail)).message);
    if (name === 'files' || name === 'html')
      write('nodemailer-base64', name, (await transport.sendMail({...mail, textEncoding: 'base64', encoding: 'base64'})).message);
  }
  const c = cases.html;
  const invite = fs.readFileSync(path.join(__dirname, 'invite.ics'), 'utf8');
  write('nodemailer', 'calendar', (await transport.sendMail({from: party(c.from), to: c.to.map(party), subject: 'Invitation: Planning',
    text: 'You are invited.', html: '<p>You are invited.</p>', icalEvent: {method: 'REQUEST', filename: 'invite.ics', content: invite}})).message);
  write('nodemailer', 'list', (await transport.sendMail({from: party(c.from), to: c.to.map(party), subject: 'Newsletter',
    html: '<p>News</p>', priority: 'high', list: {unsubscribe: {url: 'https://example.com/u', comment: 'Unsubscribe'}, id: 'news.example.com',
    help: 'help@example.com?subject=help'}, inReplyTo: '<parent@example.com>', references: ['<root@example.com>', '<parent@example.com>']})).message);
  const {Message} = await import(path.join(process.env.NODE_PATH, 'emailjs/dist/index.js'));
  for (const [name, c] of Object.entries(cases)) {
    const s = p => p.name ? `"${p.name.replace(/"/g, '\\"')}" <${p.email}>` : p.email;
    if (name === 'people') continue;
    const m = new Message({from: s(c.from), to: c.to.map(s).join(', '), subject: c.subject, text: c.text,
      attachment: [...(c.html ? [{data: c.html, alternative: true, related: (c.inline || []).map(f => ({data: f.content, encoded: true,
        type: f.contentType, name: f.filename, inline: true, headers: {'Content-ID': `<${f.cid}>`}}))}] : []),
      ...(c.attachments || []).map(f => ({data: f.content, encoded: true, type: f.contentType, name: f.filename}))]});
    write('emailjs', name, await m.readAsync());
  }
  const {createMimeMessage} = await import(path.join(process.env.NODE_PATH, 'mimetext/dist/mimetext.node.es.js'));
  for (const [name, c] of Object.entries(cases)) {
    const m = createMimeMessage();
    m.setSender({name: c.from.name, addr: c.from.email});
    m.setRecipients(c.to.map(p => ({name: p.name, addr: p.email, type: 'To'})));
    m.setSubject(c.subject);
    m.addMessage({contentType: 'text/plain', data: c.text});
    if (c.html) m.addMessage({contentType: 'text/html', data: c.html});
    for (const f of c.inline || []) m.addAttachment({inline: true, filename: f.filename, contentType: f.contentType, data: f.content, headers: {'Content-ID': f.cid}});
    for (const f of c.attachments || []) m.addAttachment({filename: f.filename, contentType: f.contentType, data: f.content});
    if (name !== 'people') write('mimetext', name, m.asRaw());
  }
})();
