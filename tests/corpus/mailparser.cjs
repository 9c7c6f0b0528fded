// What nodemailer's mailparser reads in messages: node mailparser.cjs FILE… prints one JSON object, name → fields.
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const {createRequire} = require('module');
const {simpleParser} = createRequire(path.join(process.cwd(), 'x.js'))('mailparser');
const options = {keepCidLinks: true, skipHtmlToText: true, skipTextLinks: true, skipImageLinks: true};
(async () => {
  const found = {};
  for (const file of process.argv.slice(2)) {
    const mail = await simpleParser(fs.readFileSync(file), options);
    const first = list => (list && list.value.flatMap(one => one.group || [one]).find(one => one.address)) || {};
    found[path.basename(file, '.eml')] = {
      subject: mail.subject || '',
      from: first(mail.from).address || '',
      name: first(mail.from).name || '',
      reply: first(mail.replyTo).address || '',
      html: mail.html || '',
      text: mail.text || '',
      attachments: mail.attachments.map(one => ({
        filename: one.filename || '',
        contentType: one.contentType,
        contentId: one.cid || '',
        sha256: crypto.createHash('sha256').update(one.content).digest('hex'),
      })),
    };
  }
  console.log(JSON.stringify(found));
})();
