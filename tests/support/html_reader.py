"""What a mail program makes of HTML that the relay has written."""

from __future__ import annotations

from html.parser import HTMLParser


class Reader(HTMLParser):
    """What a mail program makes of the HTML: its text, its links, and every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.links: list[tuple[str, str]] = []
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.styles: set[str] = set()
        self.directions: list[str] = []
        self.others: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        values = {name: value or "" for name, value in attrs}
        if tag == "br":
            self.text += "\n"
            return
        self._open.append(tag)
        if tag == "a":
            self.links.append((values.get("href", ""), ""))
        if tag == "div":
            self.text += "\n" if len([t for t, _ in self.tags if t == "div"]) > 1 else ""
            self.directions.append(values.get("dir", ""))
            self.styles.add(values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        # A line break of the source is white space next to a <br> or between blocks.
        shown = data.replace("\n", "")
        assert data in (shown, "\n" + shown, shown + "\n")
        self.text += shown.replace("\xa0", " ")
        if "a" in self._open:
            target, text = self.links[-1]
            self.links[-1] = (target, text + shown)

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_decl(self, decl: str) -> None:
        self.others.append(decl)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)
