"""What curl's ``-F`` makes of a form as mail: a one-mail SMTP server of the standard library's sockets, and curl."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

out, work = sys.argv[1:]
server = socket.create_server(("127.0.0.1", 0))


def serve():
    connection, _ = server.accept()
    lines = connection.makefile("rb")

    def say(text):
        connection.sendall(text.encode() + b"\r\n")

    say("220 x")
    while line := lines.readline():
        verb = line[:4].upper()
        if verb == b"DATA":
            say("354 go")
            data = b""
            while (line := lines.readline()) != b".\r\n":
                data += line[1:] if line.startswith(b".") else line
            Path(out).write_bytes(data)
            say("250 ok")
        elif verb == b"QUIT":
            say("221 bye")
            break
        else:
            say("250 ok")
    connection.close()


thread = threading.Thread(target=serve)
thread.start()
subprocess.run(
    [
        "curl",
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        f"smtp://127.0.0.1:{server.getsockname()[1]}",
        "--mail-from",
        "zoe@example.com",
        "--mail-rcpt",
        "bob@x.example",
        "-H",
        "From: Zoe <zoe@example.com>",
        "-H",
        "To: bob@x.example",
        "-H",
        "Subject: curl form",
        "-F",
        "=(;type=multipart/alternative",
        "-F",
        "=<body.txt;type=text/plain;encoder=quoted-printable",
        "-F",
        "=<page.html;type=text/html;encoder=base64",
        "-F",
        "=)",
        "-F",
        "file=@Übersicht März.pdf;type=application/pdf;encoder=base64",
        "-F",
        "=@data.csv;encoder=8bit",
    ],
    cwd=work,
    check=True,
)
thread.join()
