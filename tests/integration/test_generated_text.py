"""The API generates a mail's plain-text part from the HTML: what html-to-text, which is made for that, gets back."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from ingress.message.plain_text import to_html
from tests.integration.test_rendering import TEXTS, TEXTS_AROUND_PAGES
from tests.support.corpus import load
from tests.support.requirements import requires_npm_package, requires_program

PIECES = (
    *(
        "Hello Bob,",
        "one two",
        "  indented",
        "\ttab",
        "> quoted",
        ">> twice",
        "a   b   c",
        "-- ",
        "{{ name }}",
        "5 < 6 & 7 > 6",
    ),
    *("https://x.example/?a=1&b=2", "<https://x.example/(a)>", "www.x.example.", "mailto:a@x.example", "<b>bold</b>"),
    *(
        "",
        "",
        "Grüße 🎉",
        "שלום",
        "你好，世界",
        "x" * 120,
        "| a | b |",
        "1.  one",
        "&amp;",
        "* star",
        "# hash",
        "[x](y)",
    ),
)
SCRIPT = """
const {convert} = require('html-to-text');
const options = {wordwrap: false, selectors: [{selector: 'a', options: {ignoreHref: true}}]};
const bodies = JSON.parse(require('fs').readFileSync(0));
console.log(JSON.stringify(bodies.map(body => convert(body, options))));
"""


def lines(text: str) -> list[str]:
    """Lines without trailing white space, which no reader sees; a no-break space is a space."""
    return [line.rstrip() for line in text.replace("\xa0", " ").expandtabs(8).strip("\n").rstrip().split("\n")]


def texts() -> list[str]:
    chance = random.Random(1)
    return [*TEXTS.values(), *("\n".join(chance.choices(PIECES, k=chance.randint(1, 12))) for _ in range(500))]


def as_text(bodies: list[str], folder: Path) -> list[str]:
    """What the API's way to generate a mail's plain text makes of each of ``bodies``."""
    requires_npm_package("html-to-text@10.0.1", folder)
    finished = subprocess.run(
        [requires_program("node"), "-e", SCRIPT],
        input=json.dumps(bodies).encode(),
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr.decode()
    found: list[str] = json.loads(finished.stdout)
    return found


@pytest.mark.extra
def test_the_text_comes_back_line_by_line(tmp_path: Path) -> None:
    originals = [text for text in texts() if text.strip()]
    for original, generated in zip(originals, as_text([to_html(text) for text in originals], tmp_path), strict=True):
        assert lines(generated) == lines(original)


@pytest.mark.extra
def test_all_texts_around_a_page_are_in_its_text(tmp_path: Path) -> None:
    bodies = [load(name).expected["call"]["body"] for name in TEXTS_AROUND_PAGES]
    generated = [[line for line in lines(text) if line] for text in as_text(bodies, tmp_path)]
    assert dict(zip(TEXTS_AROUND_PAGES, generated, strict=True)) == TEXTS_AROUND_PAGES
