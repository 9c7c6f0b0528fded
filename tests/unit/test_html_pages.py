"""Several texts of a message are one HTML page, and none of them stands outside its body."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.message.chunks import CHUNK
from ingress.message.html_pages import MAX_MARKS, Text, join_texts


def written(html: str) -> Text:
    return Text(html, is_written=True)


FOOT = Text("<div>foot</div>", is_written=False)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<html><body>Hi</body></html>\n", "<html><body>Hi\n<div>foot</div>\n</body></html>\n"),
        (
            "<HTML><BODY BGCOLOR=white>Hi</BODY ></HTML>",
            "<HTML><BODY BGCOLOR=white>Hi\n<div>foot</div>\n</BODY ></HTML>",
        ),
        ("<body>Hi</html>", "<body>Hi\n<div>foot</div>\n</html>"),
        ("<html><p>Hi</p></html>", "<html><p>Hi</p>\n<div>foot</div>\n</html>"),
        ("<body>Hi", "<body>Hi\n<div>foot</div>"),
        ("<p>Hi</p>", "<p>Hi</p>\n<div>foot</div>"),
        ("<bodyguard>Hi</bodyguard>", "<bodyguard>Hi</bodyguard>\n<div>foot</div>"),
        # A page that quotes another.
        (
            "<body>Hi<html><body>old</body></html></body></html>",
            "<body>Hi<html><body>old</body></html>\n<div>foot</div>\n</body></html>",
        ),
        ("<body>Hi</body><!-- </body> -->", "<body>Hi\n<div>foot</div>\n</body><!-- </body> -->"),
        ("<body>Hi</body><!-- </body> --!>.", "<body>Hi\n<div>foot</div>\n</body><!-- </body> --!>."),
        ("<body>Hi<!--></body><!-- -->", "<body>Hi<!-->\n<div>foot</div>\n</body><!-- -->"),
        (
            "<body>Hi</body><script>'</body>'</script >",
            "<body>Hi\n<div>foot</div>\n</body><script>'</body>'</script >",
        ),
        ("</body><body>Hi", "</body><body>Hi\n<div>foot</div>"),
        # What is never closed must not swallow what follows.
        ("<body>Hi<!-- x", "<body>Hi<!-- x-->\n<div>foot</div>"),
        ("<body>Hi<STYLE>x", "<body>Hi<STYLE>x</style>\n<div>foot</div>"),
        ("Hi<body title='x", "Hi<body title='x'\">\n<div>foot</div>"),
    ],
)
def test_a_text_behind_a_page_stands_before_its_end(page: str, expected: str) -> None:
    assert join_texts([written(page), FOOT]) == expected


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<html><body>Hi</body></html>", "<html><body><div>foot</div>\nHi</body></html>"),
        ('<body title="a > b">Hi', '<body title="a > b"><div>foot</div>\nHi'),
        ("<body title=a' data-b='>'>Hi", "<body title=a' data-b='>'><div>foot</div>\nHi"),
        ("<html><head><title>T</title></head>Hi", "<html><head><title>T</title></head><div>foot</div>\nHi"),
        ("<html>Hi", "<html><div>foot</div>\nHi"),
        ("<p>Hi</p>", "<div>foot</div>\n<div><p>Hi</p></div>"),
        (
            "<!--[if mso]><body a><![endif]--><!--[if !mso]><!--><body b><!--<![endif]-->Hi",
            "<!--[if mso]><body a><![endif]--><!--[if !mso]><!--><body b><div>foot</div>\n<!--<![endif]-->Hi",
        ),
    ],
)
def test_a_text_before_a_page_stands_behind_its_beginning(page: str, expected: str) -> None:
    assert join_texts([FOOT, written(page)]) == expected


@pytest.mark.parametrize(
    ("page", "block"),
    [
        ("<p>Hi</p>\n", "<div><p>Hi</p></div>"),
        ("<!DOCTYPE html>\n<html>\n<body>Hi</body>\n</html>\n", "<div>Hi</div>"),
        ("<html><head><title>T</title><style>p{}</style></head><body>Hi</body>", "<div><style>p{}</style>Hi</div>"),
        ("<body style='x: \">\"' dir=rtl >Hi</body>", "<div style='x: \">\"' dir=rtl>Hi</div>"),
        ("beside<body>Hi</body>and behind", "<div>besideHiand behind</div>"),
        ("<body>Hi<!-- <body> --><script>'<body>'</script>", "<div>Hi<!-- <body> --><script>'<body>'</script></div>"),
        ("<body>Hi<textarea></html>", "<div>Hi<textarea></html></textarea></div>"),
        ("<html lang=ar dir=rtl><body class=x>Hi", "<div class=x lang=ar dir=rtl>Hi</div>"),
        ("<html><body class=1>Hi<body class=2>", "<div class=1>Hi</div>"),
    ],
)
def test_a_second_page_gives_what_its_body_shows(page: str, block: str) -> None:
    assert join_texts([written("<body>1</body>"), written(page)]) == f"<body>1\n{block}\n</body>"


def test_a_text_alone_stays_as_it_is() -> None:
    page = "<html><body>Hi</body></html>\nbehind\n"
    assert join_texts([written(page)]) == page
    assert join_texts([]) == ""


@pytest.mark.parametrize("before", [CHUNK - 20 + n for n in range(40)])
def test_a_tag_may_lie_across_two_chunks(before: int) -> None:
    page = "x" * (before - 6) + "<body></body>"
    assert join_texts([written(page), FOOT]) == page[:before] + "\n<div>foot</div>\n</body>"


def test_the_tags_of_one_text_are_bounded() -> None:
    page = "<body>" * MAX_MARKS + "</body>"
    assert join_texts([written(page), FOOT]) == page + "\n<div>foot</div>"


class Shown(HTMLParser):
    """What is shown of a page by a program that reads its outermost ``body`` alone."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.depth = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth += tag == "body"

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "body"

    def handle_data(self, data: str) -> None:
        if self.depth > 0:
            self.text += data


FRAME = st.sampled_from(
    [
        "{}",
        "<p>{}</p>",
        "<html><body>{}</body></html>",
        "<!doctype html><html><head><title>T</title></head>\n<body class='a>b'>\n{}\n<!-- </body> --></body>\n</html>",
        "<BODY>{}</BODY>",
        "<html><body>{}<html><body>quoted</body></html></body></html>",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(FRAME, min_size=1, max_size=6), st.integers(0, 5))
def test_every_text_is_in_the_body_in_order(frames: list[str], at: int) -> None:
    frames.insert(at, "<body>{}</body>")
    texts = [written(frame.format(f"text{number}.")) for number, frame in enumerate(frames)]
    shown = Shown(join_texts(texts)).text
    places = [shown.find(f"text{number}.") for number in range(len(frames))]
    assert -1 not in places
    assert places == sorted(places)
