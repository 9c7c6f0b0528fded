#!/usr/bin/perl
# MIME::Lite, Email::MIME, Email::Stuffer, MIME::Entity from Debian: perl perl_mailers.pl OUT
use strict; use warnings; use utf8;
use JSON::PP; use MIME::Base64; use Encode; use FindBin;
use MIME::Lite; use Email::MIME; use Email::Stuffer; use MIME::Entity;
local $/; open my $in, '<', "$FindBin::Bin/cases.json" or die; my $cases = decode_json(<$in>);
my $out = $ARGV[0];
sub put { my ($lib, $name, $raw) = @_; $raw =~ s/\r?\n/\r\n/g;
  open my $f, '>:raw', "$out/$lib-$name.eml" or die; print $f $raw; close $f; }
sub word { my $t = shift; $t =~ /[^\x20-\x7e]/ ? encode('MIME-Header', $t) : $t }
sub party { my ($p, $enc) = @_; return $p->{email} unless length $p->{name}; my $n = $p->{name};
  if ($n =~ /[^\x20-\x7e]/) { return ($enc ? word($n) : encode_utf8($n)) . " <$p->{email}>" }
  $n =~ s/(["\\])/\\$1/g; return qq("$n" <$p->{email}>) }
for my $name (sort keys %$cases) {
  my $c = $cases->{$name}; my $text = encode_utf8($c->{text});
  my @headers = (From => party($c->{from}, 1), To => join(', ', map { party($_, 1) } @{$c->{to}}), Subject => word($c->{subject}));
  push @headers, Cc => join(', ', map { party($_, 1) } @{$c->{cc}}) if $c->{cc};
  push @headers, 'Reply-To' => party($c->{reply}, 1) if $c->{reply};
  my $files = $c->{attachments} || [];
  { my $m = MIME::Lite->new(@headers, Type => 'multipart/mixed');
    for (sort keys %{$c->{headers} || {}}) { $m->add($_ => $c->{headers}{$_}) }
    if ($c->{html}) { my $alt = MIME::Lite->new(Type => 'multipart/alternative');
      $alt->attach(Type => 'text/plain; charset=UTF-8', Data => $text, Encoding => 'quoted-printable');
      my $html = encode_utf8($c->{html});
      if ($c->{inline}) { my $rel = MIME::Lite->new(Type => 'multipart/related');
        $rel->attach(Type => 'text/html; charset=UTF-8', Data => $html);
        $rel->attach(Type => $_->{contentType}, Id => "<$_->{cid}>", Filename => $_->{filename}, Encoding => 'base64', Data => decode_base64($_->{content})) for @{$c->{inline}};
        $alt->attach($rel) }
      else { $alt->attach(Type => 'text/html; charset=UTF-8', Data => $html, Encoding => 'quoted-printable') }
      $m->attach($alt) }
    else { $m->attach(Type => 'text/plain; charset=UTF-8', Data => $text) }
    $m->attach(Type => $_->{contentType}, Filename => word($_->{filename}), Disposition => 'attachment', Encoding => 'base64', Data => decode_base64($_->{content})) for @$files;
    put('mime-lite', $name, $m->as_string) }
  { my @parts = (Email::MIME->create(attributes => {content_type => 'text/plain', charset => 'UTF-8', encoding => 'quoted-printable'}, body_str => $c->{text}));
    if ($c->{html}) { my $html = Email::MIME->create(attributes => {content_type => 'text/html', charset => 'UTF-8', encoding => 'base64'}, body_str => $c->{html});
      if ($c->{inline}) { $html = Email::MIME->create(attributes => {content_type => 'multipart/related'}, parts => [$html, map {
        Email::MIME->create(attributes => {content_type => $_->{contentType}, encoding => 'base64', disposition => 'inline', filename => $_->{filename}, name => $_->{filename}},
          header => ['Content-ID' => "<$_->{cid}>"], body => decode_base64($_->{content})) } @{$c->{inline}}]) }
      # One part would be folded into the message, its own parts lost.
      @parts = @$files ? (Email::MIME->create(attributes => {content_type => 'multipart/alternative'}, parts => [$parts[0], $html])) : ($parts[0], $html) }
    push @parts, map { Email::MIME->create(attributes => {content_type => $_->{contentType}, encoding => 'base64', disposition => 'attachment', filename => $_->{filename}}, body => decode_base64($_->{content})) } @$files;
    my $m = Email::MIME->create(($c->{html} && !@$files ? (attributes => {content_type => 'multipart/alternative'}) : ()), header_str => [From => party_str($c->{from}), To => [map { party_str($_) } @{$c->{to}}], Subject => $c->{subject},
      ($c->{cc} ? (Cc => [map { party_str($_) } @{$c->{cc}}]) : ()), ($c->{reply} ? ('Reply-To' => party_str($c->{reply})) : ())],
      header => [map { $_ => $c->{headers}{$_} } sort keys %{$c->{headers} || {}}], parts => \@parts);
    put('email-mime', $name, $m->as_string) }
  if ($name =~ /^(?:html|files)$/) { my $m = Email::Stuffer->from(party_str($c->{from}))->to(map { party_str($_) } @{$c->{to}})->subject($c->{subject})->text_body($c->{text});
    $m->html_body($c->{html}) if $c->{html};
    $m->attach(decode_base64($_->{content}), filename => $_->{filename}, content_type => $_->{contentType}) for @$files;
    put('email-stuffer', $name, $m->as_string) }
  { my $m = MIME::Entity->build(@headers, Type => 'multipart/mixed');
    $m->head->add($_ => $c->{headers}{$_}) for sort keys %{$c->{headers} || {}};
    if ($c->{html}) { my $alt = $m->attach(Type => 'multipart/alternative');
      $alt->attach(Type => 'text/plain', Charset => 'UTF-8', Data => $text, Encoding => '-SUGGEST');
      my $html = encode_utf8($c->{html});
      my $where = $c->{inline} ? $alt->attach(Type => 'multipart/related') : $alt;
      $where->attach(Type => 'text/html', Charset => 'UTF-8', Data => $html, Encoding => 'quoted-printable');
      $where->attach(Type => $_->{contentType}, Id => "<$_->{cid}>", Filename => $_->{filename}, Disposition => 'inline', Encoding => 'base64', Data => decode_base64($_->{content})) for @{$c->{inline} || []} }
    else { $m->attach(Type => 'text/plain', Charset => 'UTF-8', Data => $text, Encoding => '-SUGGEST') }
    $m->attach(Type => $_->{contentType}, Filename => encode_utf8($_->{filename}), Disposition => 'attachment', Encoding => 'base64', Data => decode_base64($_->{content})) for @$files;
    put('mime-entity', $name, $m->as_string) }
}
sub party_str { my $p = shift; return $p->{email} unless length $p->{name}; my $n = $p->{name}; $n =~ s/(["\\])/\\$1/g; return qq("$n" <$p->{email}>) }
