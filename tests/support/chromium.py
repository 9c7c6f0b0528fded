"""Headless Chromium as a mail program: shows HTML in frames of a width, measures each line, takes a picture."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.requirements import requires_program

FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)

FONT: Final = "Arial, sans-serif"
FONT_SIZE: Final = 14
LINE_HEIGHT: Final = 20

_PAGE: Final = """<!DOCTYPE html><html><head><meta charset="utf-8"><style>
body { margin: 8px; background: white }
section { font: %dpx/%dpx %s; width: %dpx; margin-bottom: 12px; outline: 1px solid #ddd }
</style></head><body>%s<pre id="measurements"></pre><script>
function measure(section) {
  const box = section.getBoundingClientRect(), lines = [], range = document.createRange();
  const walker = document.createTreeWalker(section, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) for (let at = 0; at < node.length; at++) {
    range.setStart(node, at); range.setEnd(node, at + 1);
    const rect = range.getClientRects()[0];
    if (!rect || !node.data[at].trim()) continue;
    const row = Math.floor((rect.top + rect.bottom) / 2 - box.top);
    let line = lines.find(one => Math.abs(one.middle - row) < %d / 2);
    if (!line) lines.push(line = {middle: row, text: '', left: Infinity, right: -Infinity, marks: []});
    line.text += node.data[at];
    line.marks.push(Math.round((rect.left - box.left) * 10) / 10);
    line.left = Math.min(line.left, rect.left - box.left); line.right = Math.max(line.right, rect.right - box.left);
  }
  const styles = [...section.querySelectorAll('div')].map(div => getComputedStyle(div));
  return {height: box.height, width: box.width, overflow: section.scrollWidth - section.clientWidth,
    lines: lines.map(line => ({...line, row: Math.floor(line.middle / %d)})),
    fonts: styles.map(style => style.fontFamily), sizes: styles.map(style => style.fontSize),
    links: [...section.querySelectorAll('a')].map(a => [a.getAttribute('href'), a.textContent]),
    tags: [...new Set([...section.querySelectorAll('*')].map(one => one.tagName.toLowerCase()))].sort()};
}
const found = {alerted: !!window.alerted};
for (const section of document.querySelectorAll('section')) found[section.id] = measure(section);
document.getElementById('measurements').textContent = JSON.stringify(found);
</script></body></html>"""


_FRAMES: Final = """<!DOCTYPE html><html><head><meta charset="utf-8"></head><body>%s<pre id="texts"></pre><script>
addEventListener('load', () => {
  const texts = {};
  for (const frame of document.querySelectorAll('iframe')) texts[frame.id] = frame.contentDocument.body.innerText;
  document.getElementById('texts').textContent = JSON.stringify(texts);
});
</script></body></html>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chromium:
    """``folder`` takes the pages, the pictures and the profile."""

    program: str
    folder: Path

    def measure(self, bodies: Mapping[str, str], *, width: int) -> dict[str, Any]:
        """By the names of ``bodies`` (HTML): ``lines`` (``text`` without spaces, ``row`` from 0, ``left`` and ``right``
        in pixels from the frame's left edge, ``marks``: where each character begins), ``height``, ``overflow``,
        ``fonts`` and ``sizes`` of the blocks, ``links`` (target, text), ``tags``."""
        printed = self._run("--dump-dom", self._page(bodies, width))
        found = re.search(r'<pre id="measurements">(.*?)</pre>', printed, re.DOTALL)
        assert found, printed[-2000:]
        measured: dict[str, Any] = json.loads(html.unescape(found[1]))
        return measured

    def texts(self, bodies: Mapping[str, str]) -> dict[str, str]:
        """By the names of ``bodies``, each a page of its own: what is shown, line by line (``innerText``)."""
        frames = (f'<iframe id="{name}" srcdoc="{html.escape(body)}"></iframe>' for name, body in bodies.items())
        path = self.folder / "frames.html"
        path.write_text(_FRAMES % "\n".join(frames), "utf-8")
        printed = self._run("--dump-dom", path.as_uri())
        found = re.search(r'<pre id="texts">(.*?)</pre>', printed, re.DOTALL)
        assert found, printed[-2000:]
        texts: dict[str, str] = json.loads(html.unescape(found[1]))
        return texts

    def picture(self, bodies: Mapping[str, str], *, width: int, height: int) -> bytes:
        """The page as a PNG."""
        target = self.folder / f"picture-{width}.png"
        self._run(
            f"--screenshot={target}", f"--window-size={width + 16},{height}", self._page(bodies, width, measured=False)
        )
        return target.read_bytes()

    def _page(self, bodies: Mapping[str, str], width: int, *, measured: bool = True) -> str:
        sections = "\n".join(f'<section id="{name}">{body}</section>' for name, body in bodies.items())
        page = _PAGE % (FONT_SIZE, LINE_HEIGHT, FONT, width, sections, LINE_HEIGHT, LINE_HEIGHT)
        path = self.folder / f"page-{width}.html"
        path.write_text(page if measured else page.partition('<pre id="measurements">')[0], "utf-8")
        return path.as_uri()

    def _run(self, *arguments: str) -> str:
        command = [self.program, *FLAGS, f"--user-data-dir={self.folder / 'profile'}", *arguments]
        finished = subprocess.run(command, capture_output=True, check=False, timeout=90)
        assert finished.returncode == 0, finished.stderr.decode("utf-8", "replace")[-2000:]
        return finished.stdout.decode("utf-8", "replace")


def chromium(folder: Path) -> Chromium:
    """Skips, or fails in CI, without it."""
    return Chromium(program=requires_program("chromium"), folder=folder)
