"""Plain text as a mail program shows it: its lines, indentation, columns and links, measured in headless Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ingress.message.plain_text import to_html
from tests.support.chromium import FONT_SIZE, LINE_HEIGHT, chromium
from tests.support.corpus import load

WIDTH = 600
NARROW = 320
RESET = "https://app.example.com/reset-password?token=eyJhbGciOiJIUzI1NiJ9.eyJ1aWQiOjQyfQ.aB3_-x~%2F%3D&user=bob%40x.example&next=/a&lang=de#form"
TEXTS = {
    "lines": "First line\n\nThird, after an empty one\n  two spaces\n\ttab\n\n\n-- \nThe Example Team",
    "quotes": "Bob wrote:\n> Carol wrote:\n>> Is it true?\n> Yes.\nFine.",
    "paragraph": "A long line of prose without any break that a mail program wraps at the width of its window. " * 8,
    "reset": f"Hello Bob,\n\nreset your password here:\n\n<{RESET}>\n\nor here: {RESET}.\n\n(Docs: https://x.example/a_(b).)",
    "word": "W" * 300,
    "table": "Item         Qty    Price\nApple          2     1.00\nWatermelon    10    12.50\n\nThank you.",
    "wide": "Name        " + "Column        " * 12 + "\n" + "Value       " + "Cell          " * 12,
    "box": "+-------+-----+\n| Disk  | Use |\n+-------+-----+\n| /     | 82% |\n+-------+-----+",
    "qr": "█▀▀▀█ █ █▀▀▀█\n█   █ ▄ █   █\n█▄▄▄█ █ █▄▄▄█",
    "patch": "Fix it.\n\ndiff --git a/x.c b/x.c\n@@ -1,3 +1,3 @@\n int main() {\n-\treturn 1;\n+\treturn 0;\n }",
    "rtl": "שלום Bob, מה שלומך?\nHello עולם\nمرحبا بالعالم",
    "emoji": "👩‍👩‍👧‍👦 🇩🇪 ❤️ 👍🏽 done",
    "cjk": "请访问https://x.example/a，谢谢。" + "这是一段没有空格的很长的文字" * 10,
    "hostile": '<script>window.alerted = 1</script>\n<img src=x onerror="window.alerted=1">\n'
    'https://x.example/"onmouseover="alert(1)\njavascript:alert(1)\n</div></section><b>bold</b>\n&lt;b&gt;',
    "template": 'Hello {{ name ?? "you" }}, your code:  {{code}}',
}
NOTICE = "Our office is closed on Monday."
TEXTS_AROUND_PAGES = {
    "page-and-a-plain-footer": [
        NOTICE,
        "_______________________________________________",
        "List mailing list -- list@example.com",
        "To unsubscribe: <mailto:list-leave@example.com>",
    ],
    "page-behind-a-plain-text": ["CAUTION: This e-mail came from outside.", NOTICE],
    "pages-two": [NOTICE, "שלום"],
    "apple-mail-file-amid-text": ["Before", "After"],
    "html-fragments-in-a-row": ["first", "second"],
    "multipart-of-unknown-kind": ["one", "two"],
}
"""Messages of the corpus with several texts, and the lines that are read of them."""
BODIES = {name: to_html(text) for name, text in TEXTS.items()}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return chromium(tmp_path_factory.mktemp("wide")).measure(BODIES, width=WIDTH)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return chromium(tmp_path_factory.mktemp("narrow")).measure(BODIES, width=NARROW)


def shown(measured: dict[str, Any]) -> list[str]:
    return [line["text"] for line in sorted(measured["lines"], key=lambda line: line["row"])]


def starts(measured: dict[str, Any], word: str) -> float:
    """Where ``word`` (no spaces) begins, in pixels, on the one line that holds it."""
    line = next(line for line in measured["lines"] if word in line["text"])
    # The browser counts characters in UTF-16 units, as do the marks; these texts have none beyond the BMP.
    found: float = line["marks"][line["text"].index(word)]
    return found


pytestmark = pytest.mark.extra


def test_lines_stand_where_they_stood(wide: dict[str, Any]) -> None:
    lines = {line["text"]: line for line in wide["lines"]["lines"]}
    rows = [line["row"] for line in wide["lines"]["lines"]]
    assert rows == [0, 2, 3, 4, 7, 8]
    assert wide["lines"]["height"] == 9 * LINE_HEIGHT
    assert lines["Firstline"]["left"] < 1
    two, tab = lines["twospaces"]["left"], lines["tab"]["left"]
    assert two > 4
    assert tab == pytest.approx(4 * two, abs=1)


def test_quoting_keeps_its_levels(wide: dict[str, Any]) -> None:
    assert shown(wide["quotes"]) == ["Bobwrote:", ">Carolwrote:", ">>Isittrue?", ">Yes.", "Fine."]


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_nothing_is_wider_than_the_window(width: str, request: pytest.FixtureRequest) -> None:
    measured = request.getfixturevalue(width)
    assert {name: measured[name]["overflow"] for name in BODIES} == dict.fromkeys(BODIES, 0)
    for name in ("paragraph", "word", "wide", "cjk"):
        assert len(measured[name]["lines"]) > 1


def test_links_lead_where_they_say(wide: dict[str, Any]) -> None:
    assert wide["reset"]["links"] == [[RESET, RESET], [RESET, RESET], ["https://x.example/a_(b)"] * 2]
    assert wide["cjk"]["links"] == [["https://x.example/a"] * 2]
    assert wide["hostile"]["links"] == [["https://x.example/"] * 2]


def test_columns_are_columns(wide: dict[str, Any]) -> None:
    table = wide["table"]
    ends = [starts(table, word) + len(word) * (starts(table, "ty") - starts(table, "Q")) for word in ("Qty", "2", "10")]
    assert max(ends) - min(ends) < 2
    assert starts(table, "1.00") == pytest.approx(
        starts(table, "12.50") + starts(table, "ty") - starts(table, "Q"), abs=2
    )
    box = wide["box"]["lines"]
    assert max(line["right"] for line in box) - min(line["right"] for line in box) < 1
    qr = wide["qr"]["lines"]
    assert max(line["right"] for line in qr) - min(line["right"] for line in qr) < 1


def test_fonts_are_the_mail_programs_own_but_for_columns(wide: dict[str, Any]) -> None:
    monospaced = {name for name in BODIES if any("monospace" in font for font in wide[name]["fonts"])}
    assert monospaced == {"table", "wide", "box", "qr", "patch"}
    assert {size for name in BODIES for size in wide[name]["sizes"]} == {f"{FONT_SIZE}px"}
    # The prose around a table keeps the program's font.
    assert [("monospace" in font) for font in wide["table"]["fonts"]] == [True, False]


def test_each_direction_begins_at_its_side(wide: dict[str, Any]) -> None:
    hebrew, english, arabic = sorted(wide["rtl"]["lines"], key=lambda line: line["row"])
    assert hebrew["right"] == pytest.approx(WIDTH, abs=2)
    assert hebrew["left"] > WIDTH / 2
    assert english["left"] < 2
    assert arabic["right"] == pytest.approx(WIDTH, abs=2)


def test_a_text_is_no_markup(wide: dict[str, Any]) -> None:
    assert not wide["alerted"]
    assert wide["hostile"]["tags"] == ["a", "br", "div"]
    assert shown(wide["hostile"])[0] == "<script>window.alerted=1</script>"
    assert shown(wide["hostile"])[-1] == "&lt;b&gt;"
    assert shown(wide["template"]) == ['Hello{{name??"you"}},yourcode:{{code}}']


def test_a_picture_can_be_taken(tmp_path_factory: pytest.TempPathFactory) -> None:
    picture = chromium(tmp_path_factory.mktemp("picture")).picture(BODIES, width=WIDTH, height=1600)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    # A blank page of this size takes about 5 kB.
    assert len(picture) > 40_000


def test_texts_around_a_page_stand_on_lines_of_their_own(tmp_path: Path) -> None:
    bodies = {name: load(name).expected["call"]["body"] for name in TEXTS_AROUND_PAGES}
    shown = chromium(tmp_path).texts(bodies)
    assert {name: [line for line in text.split("\n") if line] for name, text in shown.items()} == TEXTS_AROUND_PAGES
