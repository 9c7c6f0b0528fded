<?php
// PHPMailer, Symfony Mailer, Swift Mailer from Debian: php php_mailers.php OUT
require '/usr/share/php/libphp-phpmailer/autoload.php';
require '/usr/share/php/Egulias/EmailValidator/autoload.php';
require '/usr/share/php/Symfony/Component/Mime/autoload.php';
@require '/usr/share/php/Swift/swift_required.php';
$cases = json_decode(file_get_contents(__DIR__ . '/cases.json'), true);
$out = $argv[1];
function write($lib, $name, $raw) { global $out;
  file_put_contents("$out/$lib-$name.eml", preg_replace("/\r?\n/", "\r\n", $raw)); }
foreach ($cases as $name => $c) {
  foreach (['phpmailer' => 'base64', 'phpmailer-qp' => 'quoted-printable'] as $lib => $enc) {
    if ($lib !== 'phpmailer' && !in_array($name, ['html', 'plain'])) continue;
    $m = new PHPMailer\PHPMailer\PHPMailer(true);
    $m->CharSet = 'UTF-8'; $m->Encoding = $enc; $m->Hostname = 'example.com';
    $m->setFrom($c['from']['email'], $c['from']['name']);
    foreach ($c['to'] as $p) $m->addAddress($p['email'], $p['name']);
    foreach ($c['cc'] ?? [] as $p) $m->addCC($p['email'], $p['name']);
    if (isset($c['reply'])) $m->addReplyTo($c['reply']['email'], $c['reply']['name']);
    foreach ($c['headers'] ?? [] as $k => $v) $m->addCustomHeader($k, $v);
    $m->Subject = $c['subject'];
    if (isset($c['html'])) { $m->isHTML(true); $m->Body = $c['html']; $m->AltBody = $c['text']; } else $m->Body = $c['text'];
    foreach ($c['inline'] ?? [] as $f) $m->addStringEmbeddedImage(base64_decode($f['content']), $f['cid'], $f['filename'], 'base64', $f['contentType']);
    foreach ($c['attachments'] ?? [] as $f) $m->addStringAttachment(base64_decode($f['content']), $f['filename'], 'base64', $f['contentType']);
    $m->preSend();
    write($lib, $name, $m->getSentMIMEMessage());
  }
  $address = fn($p) => new Symfony\Component\Mime\Address($p['email'], $p['name']);
  $m = (new Symfony\Component\Mime\Email())->from($address($c['from']))->to(...array_map($address, $c['to']))
    ->subject($c['subject'])->text($c['text']);
  if (isset($c['cc'])) $m->cc(...array_map($address, $c['cc']));
  if (isset($c['reply'])) $m->replyTo($address($c['reply']));
  foreach ($c['headers'] ?? [] as $k => $v) {
    $m->getHeaders()->addTextHeader($k, $v);
  }
  if (isset($c['html'])) $m->html($c['html']);
  foreach ($c['inline'] ?? [] as $f) $m->embed(base64_decode($f['content']), $f['cid'], $f['contentType']); // its cid: becomes one of its own
  foreach ($c['attachments'] ?? [] as $f) $m->attach(base64_decode($f['content']), $f['filename'], $f['contentType']);
  try { write('symfony', $name, $m->toString()); } catch (Throwable $e) { echo "symfony $name ", $e->getMessage(), "\n"; }
  if (class_exists('Swift_Message')) try {
    $pair = fn($ps) => array_merge(...array_map(fn($p) => $p['name'] ? [$p['email'] => $p['name']] : [$p['email']], $ps));
    $m = new Swift_Message($c['subject']);
    $m->setFrom($pair([$c['from']]))->setTo($pair($c['to']));
    if (isset($c['cc'])) $m->setCc($pair($c['cc']));
    if (isset($c['reply'])) $m->setReplyTo($pair([$c['reply']]));
    foreach ($c['headers'] ?? [] as $k => $v) if (!in_array($k, ['In-Reply-To', 'References'])) $m->getHeaders()->addTextHeader($k, $v);
      else $m->getHeaders()->addIdHeader($k, $k === 'References' ? ['root@example.com', 'parent@example.com'] : 'parent@example.com');
    if (isset($c['html'])) $m->setBody($c['html'], 'text/html')->addPart($c['text'], 'text/plain'); else $m->setBody($c['text'], 'text/plain');
    foreach ($c['inline'] ?? [] as $f) { $i = new Swift_Image(base64_decode($f['content']), $f['filename'], $f['contentType']); $i->setId($f['cid']); $m->embed($i); }
    foreach ($c['attachments'] ?? [] as $f) $m->attach(new Swift_Attachment(base64_decode($f['content']), $f['filename'], $f['contentType']));
    write('swiftmailer', $name, $m->toString());
  } catch (Throwable $e) { echo "swift $name ", $e->getMessage(), "\n"; }
}
// Text in 8bit: PHPMailer turns ASCII to 7bit and lines of more than 998 bytes to quoted-printable, so the cases above would show none.
foreach (['text', 'html'] as $kind) {
  $c = $cases['html'];
  $m = new PHPMailer\PHPMailer\PHPMailer(true);
  $m->CharSet = 'UTF-8'; $m->Encoding = '8bit'; $m->Hostname = 'example.com';
  $m->setFrom($c['from']['email'], $c['from']['name']);
  foreach ($c['to'] as $p) $m->addAddress($p['email'], $p['name']);
  $m->Subject = 'Grüße aus Köln';
  if ($kind === 'html') { $m->isHTML(true); $m->Body = "<p>Schöne Grüße, 你好 🎉</p>\n<p>.</p>\n"; $m->AltBody = $c['text']; } else $m->Body = $c['text'];
  $m->preSend();
  write('phpmailer-in-8bit', $kind, $m->getSentMIMEMessage());
}
