"""Plain text → HTML: every character arrives, links keep their target, and nothing of a text becomes markup."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingress.message.plain_text import to_html, unflow
from tests.support.html_reader import Reader

ALLOWED_TAGS = {
    ("div", ()),
    ("div", ("dir",)),
    ("div", ("style",)),
    ("div", ("dir", "style")),
    ("br", ()),
    ("a", ("href",)),
}
ALLOWED_STYLES = {
    "",
    "font-family:Consolas,Menlo,monospace",
    "word-wrap:break-word;overflow-wrap:anywhere",
    "font-family:Consolas,Menlo,monospace;word-wrap:break-word;overflow-wrap:anywhere",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "<div></div>"),
        ("a\nb", "<div>a<br>\nb</div>"),
        ("a\r\nb\rc\u2028d\x85e", "<div>a<br>\nb<br>\nc<br>\nd<br>\ne</div>"),
        ("\na\n\n\nb\n \n", "<div><br>\na<br>\n<br>\n<br>\nb</div>"),
        ("  two\n one\nnone", "<div>&nbsp;&nbsp;two<br>\n&nbsp;one<br>\nnone</div>"),
        ("End.  Next", "<div>End.&nbsp; Next</div>"),
        ("\ta", "<div>&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;a</div>"),
        ("> one\n>> two\n> > three", "<div>&gt; one<br>\n&gt;&gt; two<br>\n&gt; &gt; three</div>"),
        ("Hi\n-- \nBob", "<div>Hi<br>\n-- <br>\nBob</div>"),
        ("<script>alert('1')</script>", "<div>&lt;script&gt;alert('1')&lt;/script&gt;</div>"),
        ("&nbsp; &lt; &amp;", "<div>&amp;nbsp; &amp;lt; &amp;amp;</div>"),
        ("\x1b[31mred\x1b[0m\x00\x07\x0c!", "<div>red!</div>"),
        ('{{ name ?? "x  y" }}, {{a}}  b', '<div>{{ name ?? "x  y" }}, {{a}}&nbsp; b</div>'),
        ("{{ <img src=x onerror=alert(1)> }}", "<div>{{ &lt;img src=x onerror=alert(1)&gt; }}</div>"),
        ("👩‍👩‍👧‍👦 🇩🇪 ❤️", "<div>👩‍👩‍👧‍👦 🇩🇪 ❤️</div>"),
    ],
)
def test_lines(text: str, expected: str) -> None:
    assert to_html(text) == expected


RESET = "https://app.example.com/reset?token=aB3_-.~%2F%3D&user=a%40b.example&next=/x#f=1;2,3!"


@pytest.mark.parametrize(
    ("text", "links"),
    [
        (f"Reset: {RESET[:-1]}", [(RESET[:-1], RESET[:-1])]),
        (f"Reset: <{RESET}>.", [(RESET, RESET)]),
        (f"<URL:{RESET}>", [(RESET, RESET)]),
        ("<https://x.example/reset?\ntoken=abc&\nu=1>", [("https://x.example/reset?token=abc&u=1",) * 2]),
        ("> <https://x.example/a\n> b>", [("https://x.example/a",) * 2]),
        ("https://x.example/?t=YWJj==", [("https://x.example/?t=YWJj==",) * 2]),
        ("https://x.example/t_-", [("https://x.example/t_-",) * 2]),
        ("(see https://x.example/a).", [("https://x.example/a",) * 2]),
        ("(see https://x.example/a_(b)).", [("https://x.example/a_(b)",) * 2]),
        ("https://x.example/a_(b)", [("https://x.example/a_(b)",) * 2]),
        ("[https://x.example/a]", [("https://x.example/a",) * 2]),
        ("http://[2001:db8::1]:8080/", [("http://[2001:db8::1]:8080/",) * 2]),
        ("[text](https://x.example/a)", [("https://x.example/a",) * 2]),
        ("*https://x.example/a*", [("https://x.example/a",) * 2]),
        (
            "https://x.example/a, https://x.example/b; https://x.example/c!",
            [(f"https://x.example/{n}",) * 2 for n in "abc"],
        ),
        ("“https://x.example/a”", [("https://x.example/a",) * 2]),
        ("请访问https://x.example/a，谢谢", [("https://x.example/a",) * 2]),
        ("https://x.example/ü/日本", [("https://x.example/ü/日本",) * 2]),
        ("HTTPS://X.example", [("HTTPS://X.example",) * 2]),
        ("www.example.com/a?b=1.", [("http://www.example.com/a?b=1", "www.example.com/a?b=1")]),
        ("mailto:a@x.example?subject=Hi%20you.", [("mailto:a@x.example?subject=Hi%20you",) * 2]),
        ("https://x.example/{{ token }}?a={{b}}.", [("https://x.example/{{ token }}?a={{b}}",) * 2]),
        ('"https://x.example/" onclick="alert(1)', [("https://x.example/",) * 2]),
        ("https://x.example/'onclick=alert(1)", [("https://x.example/'onclick=alert(1)",) * 2]),
        ("https://x.example/<script>", [("https://x.example/",) * 2]),
        ("https://x.example/`x`", [("https://x.example/",) * 2]),
        ("https://x.example/\x00a", [("https://x.example/a",) * 2]),
        ("javascript:alert(1) <javascript:alert(1)> data:text/html,x vbscript:x file:///etc", []),
        ("http:// https://... www. www.x mailto: xhttp://x.example xwww.x.example", []),
        ("a@www.x.example", []),
    ],
)
def test_links(text: str, links: list[tuple[str, str]]) -> None:
    assert Reader(to_html(text)).links == links


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Item    Qty   Price\nApple     2    1.00", 2),
        ("Hello,\n\nName:     Alice\nOrder:    12\n\nBye", 2),
        ("+-----+---+\n| a   | b |\n+-----+---+", 3),
        ("┌───┐\n│ x │\n└───┘", 3),
        ("█▀▀█\n█▄▄█", 2),
        ("A\tB\n1\t2", 2),
        ("See:\n\ndiff --git a/x b/x\n@@ -1,2 +1,2 @@\n-a\n\n+b", 5),
        ("Prose.  With two spaces.\nAfter a sentence:  as typists do!  Twice.", 0),
        ("-  one\n-  two\n1.  three\n2.  four\n>   quoted\n>   twice", 0),
        ("One  gap in prose\nis no table.\nNor are\nmore lines.", 0),
        ("──────────\nTitle\n──────────", 0),
        ("  int main() {\n    return 0;\n  }", 0),
        ("a | b\nc || d", 0),
    ],
)
def test_a_fixed_width_font_stands_only_where_columns_need_it(text: str, lines: int) -> None:
    blocks = re.findall(r'<div style="font-family:[^"]*monospace[^"]*">(.*?)</div>', to_html(text), re.DOTALL)
    assert sum(len(block.removeprefix("<br>\n").split("<br>")) for block in blocks) == lines


def test_a_long_word_may_break_and_other_text_needs_no_leave() -> None:
    assert "overflow-wrap" in to_html("x" * 40)
    assert "overflow-wrap" in to_html("a\n" + " " * 60 + "b")
    assert "style" not in to_html("word " * 100)


def test_each_run_of_lines_has_the_direction_of_its_first_letter() -> None:
    assert to_html("1.\nשלום Bob\n\nHello שלום\n2") == (
        '<div dir="rtl">1.<br>\nשלום Bob</div>\n<div dir="ltr"><br>\nHello שלום<br>\n2</div>'
    )
    assert Reader(to_html("مرحبا\nA  B\nC  D")).directions == ["rtl", "ltr"]
    assert "dir" not in to_html("Ελληνικά и русский 日本")


@pytest.mark.parametrize("piece", ["\t", "  ", "a  b\n", "\n", "ש\na\n", "1\nש"])
def test_a_huge_text_stays_near_its_size(piece: str) -> None:
    text = "x" + piece * (2_000_000 // len(piece)) + "x"
    html = to_html(text)
    assert len(html.encode()) < 6 * len(text)
    assert html.count("<div") < 110_000


def test_what_follows_100000_characters_is_shown_like_the_last_of_them() -> None:
    table = "Item    Qty   Price\n" * 6000
    html = to_html(table + "שלום\nlast line")
    assert html.count("<div") == 1
    assert html.endswith("שלום<br>\nlast line</div>")
    prose = to_html("Hello there.\n" * 9000 + "Item    Qty\n" * 9)
    assert prose.startswith("<div>Hello")
    assert prose.count("<div") == 1


PIECES = st.sampled_from(
    [
        *(
            "<",
            ">",
            '"',
            "'",
            "&",
            "&amp;",
            "&#60;",
            "<b>",
            "</div>",
            "<!--",
            "<![CDATA[",
            "<?x",
            "javascript:",
            "onload=",
        ),
        *(
            "https://x.example/",
            "http://",
            "www.a.b",
            "mailto:",
            "<https://a.b/",
            "<URL:",
            "URL:",
            "{{",
            "}}",
            "{{ a }}",
        ),
        *(
            "\n",
            "\n\n",
            " ",
            "  ",
            "\t",
            ">",
            "> ",
            "\r\n",
            "\x00",
            "\x1b[0m",
            "\x0c",
            "\u2028",
            "\xa0",
            "\u200b",
            "\u202e",
        ),
        *(
            "(",
            ")",
            "[",
            "]",
            ".",
            ",",
            "=",
            "שלום",
            "مرحبا",
            "│",
            "|",
            "a  b",
            "x" * 50,
            "🎉",
            "diff --git ",
            "@@ -1 +1 @@",
        ),
    ]
)
HOSTILE = st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=25).map("".join)


def shown(text: str) -> str:
    """A text's characters as they are to be seen, by the rules in other words than the code's."""
    text = re.sub(r"\r\n|\r|\x85|\u2028|\u2029", "\n", text)
    text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text)
    text = "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\ufffe\uffff"))
    return text.rstrip().expandtabs(8).replace("\xa0", " ")


@settings(max_examples=500, deadline=None)
@example("\n\n")
@example('<https://x.example/" onclick=alert(1)>')
@given(HOSTILE)
def test_the_html_holds_the_text_and_no_tag_of_the_texts_own(text: str) -> None:
    html = to_html(text)
    read = Reader(html)
    assert read.text == shown(text)
    assert set(read.tags) <= ALLOWED_TAGS
    assert read.styles <= ALLOWED_STYLES
    assert read.others == []
    for target, words in read.links:
        assert re.match(r"(?i)https?://|mailto:", target)
        assert target in (words, "http://" + words)
        assert not re.search(r'[\s<>"]', re.sub(r"\{\{.*?\}\}", "", target))
    # A <br> at a block's end would show nothing.
    assert "<br></div>" not in html.replace("\n", "")


@pytest.mark.parametrize(
    ("text", "delete_space", "expected"),
    [
        ("one \ntwo \nthree\nfour", False, "one two three\nfour"),
        ("one \ntwo", True, "onetwo"),
        ("日 \n本", True, "日本"),
        (" From here\n > not a quote", False, "From here\n> not a quote"),
        ("> a \n> b\n>> c \n>> d\n> e", False, "> a b\n>> c d\n> e"),
        ("> a \nb", False, "> a \nb"),
        ("Hi \n-- \nBob \nSmith", False, "Hi \n-- \nBob Smith"),
        (">-- \n> x", False, "> -- \n> x"),
        ("a\n\n \nb", False, "a\n\n\nb"),
        ("", False, ""),
    ],
)
def test_flowed_text_is_rejoined(text: str, delete_space: bool, expected: str) -> None:
    assert unflow(text, delete_space=delete_space) == expected
