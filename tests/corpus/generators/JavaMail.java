// JavaMail from Debian (libmail-java), as Spring, Jenkins and Jira use it:
// (its transport, which writes CRLF, is not asked: run the file through sed "s/\\r*$/\\r/".)
// java -cp /usr/share/java/javax.mail.jar:/usr/share/java/javax.activation.jar JavaMail.java OUT  (reads cases.tsv made by cases_tsv.py)
import java.io.*; import java.nio.file.*; import java.util.*;
import javax.mail.*; import javax.mail.internet.*; import javax.activation.*; import javax.mail.util.ByteArrayDataSource;
public class JavaMail {
  static String u(String s) throws Exception { return new String(Base64.getDecoder().decode(s), "UTF-8"); }
  static InternetAddress party(String s) throws Exception { String[] p = s.split("\\|", -1);
    return p[0].isEmpty() ? new InternetAddress(p[1]) : new InternetAddress(p[1], u(p[0]), "UTF-8"); }
  static MimeBodyPart file(String s, String disposition) throws Exception { String[] p = s.split("\\|", -1);
    MimeBodyPart b = new MimeBodyPart(); b.setDataHandler(new DataHandler(new ByteArrayDataSource(Base64.getDecoder().decode(p[2]), p[1])));
    b.setFileName(MimeUtility.encodeText(u(p[0]), "UTF-8", null)); b.setDisposition(disposition); if (p.length > 3 && !p[3].isEmpty()) b.setContentID("<" + p[3] + ">"); return b; }
  public static void main(String[] a) throws Exception {
    System.setProperty("mail.mime.splitlongparameters", "true");
    for (String line : Files.readAllLines(Paths.get(a[1]))) {
      Map<String, List<String>> c = new LinkedHashMap<>();
      String[] cells = line.split("\t");
      for (String cell : cells) { int e = cell.indexOf('='); c.computeIfAbsent(cell.substring(0, e), k -> new ArrayList<>()).add(cell.substring(e + 1)); }
      String name = c.get("name").get(0);
      MimeMessage m = new MimeMessage(Session.getInstance(new Properties()));
      m.setFrom(party(c.get("from").get(0)));
      for (String p : c.get("to")) m.addRecipient(Message.RecipientType.TO, party(p));
      for (String p : c.getOrDefault("cc", List.of())) m.addRecipient(Message.RecipientType.CC, party(p));
      if (c.containsKey("reply")) m.setReplyTo(new Address[]{party(c.get("reply").get(0))});
      m.setSubject(u(c.get("subject").get(0)), "UTF-8");
      for (String h : c.getOrDefault("header", List.of())) { String[] p = h.split("\\|"); m.setHeader(p[0], u(p[1])); }
      String text = u(c.get("text").get(0));
      MimeMultipart mixed = new MimeMultipart();
      MimeBodyPart body = new MimeBodyPart();
      if (c.containsKey("html")) {
        MimeMultipart alternative = new MimeMultipart("alternative");
        MimeBodyPart t = new MimeBodyPart(); t.setText(text, "UTF-8"); alternative.addBodyPart(t);
        MimeBodyPart h = new MimeBodyPart(); h.setText(u(c.get("html").get(0)), "UTF-8", "html");
        if (c.containsKey("inline")) { MimeMultipart related = new MimeMultipart("related"); related.addBodyPart(h);
          for (String f : c.get("inline")) related.addBodyPart(file(f, Part.INLINE));
          MimeBodyPart w = new MimeBodyPart(); w.setContent(related); alternative.addBodyPart(w); }
        else alternative.addBodyPart(h);
        body.setContent(alternative);
      } else body.setText(text, "UTF-8");
      mixed.addBodyPart(body);
      for (String f : c.getOrDefault("attachment", List.of())) mixed.addBodyPart(file(f, Part.ATTACHMENT));
      if (mixed.getCount() > 1) m.setContent(mixed); else if (c.containsKey("html")) m.setContent((Multipart) body.getContent()); else m.setText(text, "UTF-8");
      m.setSentDate(new Date()); m.saveChanges();
      try (OutputStream o = Files.newOutputStream(Paths.get(a[0], "javamail-" + name + ".eml"))) { m.writeTo(o); }
    }
  }
}
