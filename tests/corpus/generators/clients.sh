#!/usr/bin/env bash
# Programs of the command line, all from Debian: mutt, s-nail, mpack, nmh, swaks, curl, git send-email, openssl, gpg, mailutils.
# bash clients.sh OUT
set -eu
out=$(realpath "$1"); here=$(realpath "$(dirname "$0")"); work=$(mktemp -d); cd "$work"
export HOME=$work EMAIL=bob.sender@example.com LC_ALL=C.UTF-8 GNUPGHOME=$work/gnupg
mkdir -m 700 gnupg
# A sendmail that keeps what it is given.
cat > sendmail <<'S'
#!/bin/sh
cat > "$KEEP"
S
chmod +x sendmail
crlf() { sed -i 's/\r*$/\r/' "$1"; }
printf '%%PDF-1.4\nexample\n%%%%EOF\n' > 'Übersicht März.pdf'
printf 'Name;Größe\nZoë;3\n' > data.csv
printf '<p>Grüße <b>from mutt</b></p>\n' > page.html
printf 'Hello Bob,\n\nGrüße aus Köln.\n\nFrom here on:\n  https://x.example/reset?a=1&b=2\n.\n' > body.txt
printf '[user]\n\tname = Zoë Ångström\n\temail = zoe@example.com\n' > .gitconfig

mutt_send() { KEEP=$out/$1.eml; shift; KEEP=$KEEP mutt -n -F /dev/null -e "set sendmail=$work/sendmail copy=no hostname=example.com \
  realname='Zoë Ångström' from=zoe@example.com use_from=yes send_charset=utf-8 abort_nosubject=no sendmail_wait=0" "$@"; crlf "$KEEP"; }
mutt_send mutt-plain -s 'Grüße' -- bob@x.example < body.txt
mutt_send mutt-files -s 'Zwei Dateien für Sie – eine mit Umlaut im Namen' -a 'Übersicht März.pdf' -a data.csv -- 'Jürgen <bob@x.example>' < body.txt
mutt_send mutt-html -e "set content_type=text/html" -s HTML -- bob@x.example < page.html
mutt_send mutt-flowed -e "set text_flowed=yes" -s Flowed -- bob@x.example < <(printf 'A paragraph that \nflows over three \nlines.\nAnd one that does not.\n> quoted and \n> flowed\n')
for charset in iso-8859-1 koi8-r; do
  KEEP=$out/mutt-$charset.eml mutt -n -F /dev/null -e "set sendmail=$work/sendmail copy=no hostname=example.com from=zoe@example.com use_from=yes send_charset=$charset sendmail_wait=0 realname=Zoe" \
    -s "$([ $charset = koi8-r ] && echo Привет || echo Größe)" -- bob@x.example < <([ $charset = koi8-r ] && echo 'Привет, мир' || echo 'Größe: 3 µm'); crlf "$out/mutt-$charset.eml"
done

snail() { KEEP=$out/$1.eml; shift; KEEP=$KEEP s-nail -:/ -Ssendwait -S"mta=$work/sendmail" -S'from=Zoë Ångström <zoe@example.com>' -Sttycharset=utf-8 -Ssendcharsets=utf-8 -Shostname=example.com "$@"; crlf "$KEEP"; }
snail s-nail-plain -s 'Grüße aus Köln' bob@x.example < body.txt
snail s-nail-files -s 'Files' -a 'Übersicht März.pdf' -a data.csv bob@x.example < body.txt

rm -f "$out/mpack-file.eml"; mpack -s 'mpack file' -d body.txt -o "$out/mpack-file.eml" 'Übersicht März.pdf'
sed -i '1i From: zoe@example.com\r' "$out/mpack-file.eml"; crlf "$out/mpack-file.eml"

swaks --dump-mail --from zoe@example.com --to bob@x.example --header 'Subject: Grüße' --header 'X-Test: swaks' --body @body.txt --attach-type application/pdf --attach-name 'Übersicht März.pdf' --attach @"Übersicht März.pdf" --attach-type text/csv --attach-name data.csv --attach @data.csv > "$out/swaks-files.eml"
swaks --dump-mail --from zoe@example.com --to bob@x.example --header 'Subject: Plain' --body @body.txt > "$out/swaks-plain.eml"
sed -i 's/^\.\././' "$out"/swaks-*.eml  # it shows what goes over the wire, dots doubled
 crlf "$out/swaks-files.eml"; crlf "$out/swaks-plain.eml"

git init -q repo; cd repo; printf 'int main(void)\n{\n\treturn 0;\n}\n' > main.c; git add .; git commit -qm 'Größe: first'
printf 'int main(void)\n{\n\tint größe = 1;\n\n\treturn größe;   /*  columns  */\n}\n' > main.c; git commit -qam 'main: return the Größe

A longer explanation, with https://example.com/issue?id=1&x=2.

Signed-off-by: Zoë Ångström <zoe@example.com>'
git commit -q --allow-empty -m x; printf 'int a;\n' > a.c; git add a.c; git commit -qm 'a.c: new file'
git format-patch -q -1 HEAD~2 -o ../patches --subject-prefix='PATCH v2'; git format-patch -q -1 HEAD -o ../attached --attach; cd ..
git send-email --quiet --no-validate --confirm=never --suppress-cc=all --sendmail-cmd="KEEP=$out/git-send-email.eml $work/sendmail" --to='Bob <bob@x.example>' --from='Zoë Ångström <zoe@example.com>' --in-reply-to='<cover@example.com>' patches/*.patch >/dev/null
git send-email --quiet --no-validate --confirm=never --suppress-cc=all --sendmail-cmd="KEEP=$out/git-send-email-attach.eml $work/sendmail" --to=bob@x.example --from=zoe@example.com attached/*.patch >/dev/null
crlf "$out/git-send-email.eml"; crlf "$out/git-send-email-attach.eml"

openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 3650 -subj '/CN=Zoe/emailAddress=zoe@example.com' 2>/dev/null
printf 'Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSigned text: Grüße\r\n' > inner
openssl smime -sign -in inner -signer cert.pem -inkey key.pem -from zoe@example.com -to bob@x.example -subject 'S/MIME signed' > "$out/smime-signed.eml"
openssl smime -sign -nodetach -in inner -signer cert.pem -inkey key.pem -from zoe@example.com -to bob@x.example -subject 'S/MIME opaque' > "$out/smime-opaque.eml"
openssl smime -encrypt -aes256 -in inner -from zoe@example.com -to bob@x.example -subject 'S/MIME encrypted' cert.pem > "$out/smime-encrypted.eml"
gpg --batch --quiet --passphrase '' --quick-generate-key 'Zoe <zoe@example.com>' rsa2048 sign,encr never 2>/dev/null
head='From: zoe@example.com\r\nTo: bob@x.example\r\nMIME-Version: 1.0\r\n'
gpg --batch --quiet --armor --detach-sign --textmode --output sig.asc inner
{ printf "${head}Subject: PGP signed\r\nContent-Type: multipart/signed; micalg=pgp-sha512;\r\n protocol=\"application/pgp-signature\"; boundary=\"=-sig\"\r\n\r\nThis is an OpenPGP/MIME signed message (RFC 4880 and 3156)\r\n--=-sig\r\n"; cat inner
  printf -- '\r\n--=-sig\r\nContent-Type: application/pgp-signature; name="signature.asc"\r\nContent-Description: OpenPGP digital signature\r\nContent-Disposition: attachment; filename="signature.asc"\r\n\r\n'; cat sig.asc; printf -- '\r\n--=-sig--\r\n'; } > "$out/pgp-signed.eml"
gpg --batch --quiet --armor --trust-model always --encrypt -r zoe@example.com --output enc.asc inner
{ printf "${head}Subject: PGP encrypted\r\nContent-Type: multipart/encrypted;\r\n protocol=\"application/pgp-encrypted\"; boundary=\"enc\"\r\n\r\n--enc\r\nContent-Type: application/pgp-encrypted\r\nContent-Description: PGP/MIME version identification\r\n\r\nVersion: 1\r\n\r\n--enc\r\nContent-Type: application/octet-stream; name=\"encrypted.asc\"\r\nContent-Description: OpenPGP encrypted message\r\nContent-Disposition: inline; filename=\"encrypted.asc\"\r\n\r\n"; cat enc.asc; printf -- '\r\n--enc--\r\n'; } > "$out/pgp-encrypted.eml"
printf 'Inline signed text\n- a line that begins with a dash\n' > clear; gpg --batch --quiet --clearsign --output clear.asc clear
{ printf "${head}Subject: PGP inline\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"; cat clear.asc; } > "$out/pgp-inline.eml"
for f in smime-signed smime-opaque smime-encrypted pgp-signed pgp-encrypted pgp-inline; do crlf "$out/$f.eml"; done

mkdir -p Mail; echo 'Path: Mail' > .mh_profile
printf 'From: zoe@example.com\nTo: bob@x.example\nSubject: nmh\n--------\nHello from nmh.\n#text/csv; name="data.csv" <>{attachment} [A table] data.csv\n#application/pdf; name="Übersicht.pdf" *b64 [PDF] %s\n' "'Übersicht März.pdf'" > draft
sed -i 's/^#text.*/#text\/csv; name="data.csv" <>[A table]{attachment} data.csv/; s/^#application.*/#application\/pdf; name="report.pdf" <>[PDF]{attachment} data.csv/' draft
/usr/bin/mh/mhbuild draft && cp draft "$out/nmh-files.eml" && crlf "$out/nmh-files.eml"

python3 "$here/curl_sink.py" "$out/curl-form.eml" "$work" 
rm -rf "$work"
