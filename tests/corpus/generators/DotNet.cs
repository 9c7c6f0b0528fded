// System.Net.Mail as Mono ships it: mcs -out:/tmp/dotnet.exe DotNet.cs && mono /tmp/dotnet.exe OUT cases.tsv
using System; using System.IO; using System.Net.Mail; using System.Net.Mime; using System.Text;
class DotNet {
  static string U(string s) { return Encoding.UTF8.GetString(Convert.FromBase64String(s)); }
  static MailAddress Party(string s) { var p = s.Split('|'); return p[0] == "" ? new MailAddress(p[1]) : new MailAddress(p[1], U(p[0]), Encoding.UTF8); }
  static void Main(string[] a) {
    foreach (var line in File.ReadAllLines(a[1])) {
      var m = new MailMessage(); string name = "", text = null, html = null; AlternateView view = null;
      foreach (var cell in line.Split('\t')) { if (cell.StartsWith("html=")) { html = U(cell.Substring(5)); view = AlternateView.CreateAlternateViewFromString(html, Encoding.UTF8, "text/html"); } }
      foreach (var cell in line.Split('\t')) {
        int e = cell.IndexOf('='); string key = cell.Substring(0, e), value = cell.Substring(e + 1); var p = value.Split('|');
        switch (key) {
          case "name": name = value; break;
          case "from": m.From = Party(value); break;
          case "to": m.To.Add(Party(value)); break;
          case "cc": m.CC.Add(Party(value)); break;
          case "reply": m.ReplyToList.Add(Party(value)); break;
          case "subject": m.Subject = U(value); m.SubjectEncoding = Encoding.UTF8; break;
          case "text": text = U(value); m.Body = text; m.BodyEncoding = Encoding.UTF8; break;
          case "header": m.Headers.Add(p[0], U(p[1])); break;
          case "attachment": { var x = new Attachment(new MemoryStream(Convert.FromBase64String(p[2])), U(p[0]), p[1]); x.NameEncoding = Encoding.UTF8; m.Attachments.Add(x); break; }
          case "inline": { var r = new LinkedResource(new MemoryStream(Convert.FromBase64String(p[2])), p[1]); r.ContentId = p[3]; r.ContentType.Name = U(p[0]); view.LinkedResources.Add(r); break; }
        }
      }
      if (view != null) m.AlternateViews.Add(view);
      string dir = Path.Combine(Path.GetTempPath(), "dotnet-" + Guid.NewGuid()); Directory.CreateDirectory(dir);
      try { var c = new SmtpClient("localhost") { DeliveryMethod = SmtpDeliveryMethod.SpecifiedPickupDirectory, PickupDirectoryLocation = dir }; c.Send(m);
        File.Copy(Directory.GetFiles(dir)[0], Path.Combine(a[0], "dotnet-" + name + ".eml"), true); }
      catch (Exception x) { Console.WriteLine(name + " " + x); }
      Directory.Delete(dir, true);
    }
  }
}
