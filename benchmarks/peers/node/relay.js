// The original relay's shape: smtp-server, mailparser, one POST a message before the reply, one process.
// Usage: node relay.js PORT API_URL DATABASE_URL
const { SMTPServer } = require("smtp-server");
const { simpleParser } = require("mailparser");
const { Pool } = require("pg");

const [port, apiUrl, databaseUrl] = process.argv.slice(2);
const database = new Pool({ connectionString: databaseUrl, max: 10 });
const MAX_SIZE = 10 * 1024 * 1024;

function failed(code, text) {
  const error = new Error(text);
  error.responseCode = code;
  return error;
}

const server = new SMTPServer({
  size: MAX_SIZE,
  authOptional: false,
  allowInsecureAuth: true,
  disabledCommands: ["STARTTLS"],
  disableReverseLookup: true,
  banner: "Plunk SMTP Relay",
  async onAuth(auth, session, callback) {
    if ((auth.username || "").toLowerCase() !== "plunk") return callback(failed(535, "Invalid username"));
    try {
      const { rows } = await database.query("SELECT id, secret FROM projects WHERE secret = $1", [auth.password]);
      if (!rows.length) return callback(failed(535, "Invalid API key"));
      callback(null, { user: rows[0] });
    } catch {
      callback(failed(454, "Temporary authentication failure"));
    }
  },
  async onMailFrom(address, session, callback) {
    try {
      const domain = address.address.split("@")[1];
      const { rows } = await database.query(
        'SELECT verified FROM domains WHERE "projectId" = $1 AND domain = $2', [session.user.id, domain]);
      if (!rows.length || !rows[0].verified) return callback(failed(550, "Sender domain is not verified"));
      callback();
    } catch {
      callback(failed(451, "Temporary failure"));
    }
  },
  onRcptTo(address, session, callback) {
    if (session.envelope.rcptTo.length >= 5) return callback(failed(452, "Too many recipients"));
    callback();
  },
  async onData(stream, session, callback) {
    try {
      const mail = await simpleParser(stream);
      if (stream.sizeExceeded) return callback(failed(552, "Message too large"));
      const from = session.envelope.mailFrom.address;
      const to = session.envelope.rcptTo.map((recipient) => recipient.address);
      const response = await fetch(`${apiUrl}/v1/send`, {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${session.user.secret}` },
        body: JSON.stringify({
          from,
          name: mail.from && mail.from.value[0].name,
          to,
          subject: mail.subject || "No subject",
          body: mail.html || mail.textAsHtml || mail.text || "",
          attachments: mail.attachments.map((file) => ({
            filename: file.filename || "attachment",
            content: file.content.toString("base64"),
            contentType: file.contentType,
          })),
        }),
      });
      await response.text();
      if (!response.ok) return callback(failed(554, "Transaction failed"));
      console.log(`Email relayed: ${from} → ${to.join(", ")}`);
      callback(null, "Message accepted");
    } catch {
      callback(failed(554, "Transaction failed"));
    }
  },
});

server.on("error", () => {});
server.listen(Number(port), "127.0.0.1", () => console.log("listening"));
