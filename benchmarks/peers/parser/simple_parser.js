// nodemailer's simpleParser behind a pipe: a line `{"file", "rounds", "json"}` in, one `{"wall", "cpu"}` out, in seconds
// for one message (the mean of the rounds). It runs in the folder of its packages.
const fs = require("fs");
const readline = require("readline");
const path = require("path");
const { simpleParser } = require(path.join(process.cwd(), "node_modules", "mailparser"));

function toJson(mail) {
  return Buffer.from(
    JSON.stringify({
      from: mail.from.value[0].address,
      name: mail.from.value[0].name,
      to: mail.to.value.map((box) => box.address),
      subject: mail.subject,
      body: mail.html || mail.textAsHtml,
      reply: mail.replyTo && mail.replyTo.value[0].address,
      attachments: mail.attachments.map((file) => ({
        filename: file.filename,
        contentType: file.contentType,
        content: file.content.toString("base64"),
      })),
    })
  );
}

async function run() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { file, rounds, json } = JSON.parse(line);
    const raw = fs.readFileSync(file);
    const cpu = process.cpuUsage();
    const start = process.hrtime.bigint();
    let bytes = 0;
    for (let round = 0; round < rounds; round++) {
      const mail = await simpleParser(raw);
      bytes += json ? toJson(mail).length : mail.html.length;
    }
    const wall = Number(process.hrtime.bigint() - start) / 1e9 / rounds;
    const used = process.cpuUsage(cpu);
    process.stdout.write(JSON.stringify({ wall, cpu: (used.user + used.system) / 1e6 / rounds, bytes }) + "\n");
  }
}

run();
