#!/usr/bin/env bash
# What Postfix sends back: an instance of its own in a temporary folder bounces one mail into a maildir. As root:
# bash postfix_bounce.sh OUT
set -eu
out=$(realpath "$1"); root=$(mktemp -d /tmp/postfix-bounce.XXXX); chmod 755 "$root"; mkdir "$root"/{etc,spool,data,mail}
chown postfix "$root/data" "$root/mail"; port=25252
cat > "$root/etc/main.cf" <<M
compatibility_level = 3.6
queue_directory = $root/spool
data_directory = $root/data
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.example.com
myorigin = example.com
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
smtp_dns_support_level = disabled
relayhost = [127.0.0.1]:1
maximal_queue_lifetime = 0
bounce_queue_lifetime = 1h
virtual_mailbox_domains = example.com
virtual_mailbox_base = $root/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:$(id -u postfix)
virtual_gid_maps = static:$(id -g postfix)
virtual_minimum_uid = 1
maillog_file = $root/maillog
maillog_file_prefixes = $root
M
cat > "$root/etc/master.cf" <<M
127.0.0.1:$port inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
M
trap 'postfix -c "$root/etc" stop 2>/dev/null; rm -rf "$root"' EXIT
postfix -c "$root/etc" start 2>/dev/null
python3 - "$port" <<'P'
import smtplib, sys, time
for _ in range(50):
    try:
        client = smtplib.SMTP("127.0.0.1", int(sys.argv[1]))
        break
    except OSError:
        time.sleep(0.2)
client.sendmail("zoe@example.com", ["nobody@y.example"],
    "From: Zoë <zoe@example.com>\r\nTo: nobody@y.example\r\nSubject: Grüße\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    "Content-Transfer-Encoding: 8bit\r\n\r\nGrüße, die nicht ankommen.\r\n".encode(), ["BODY=8BITMIME", "SMTPUTF8"])
P
for _ in $(seq 50); do set -- "$root"/mail/box/new/*; [ -e "$1" ] && break; sleep 0.2; done
sed 's/\r*$/\r/' "$1" > "$out/postfix-bounce-real.eml"
