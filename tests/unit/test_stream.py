"""The byte stream: lines and data, whichever way the network cuts them."""

from __future__ import annotations

import asyncio
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.data import CRLF, END_OF_DATA, WINDOW, DataReader, DataTooLarge, NoRoom
from ingress.stream import READ_AHEAD, BareNewline, ByteStream, ClientGone, LineTooLong


def stream(*chunks: bytes) -> ByteStream:
    made = ByteStream(pause=lambda: None, resume=lambda: None)
    for chunk in chunks:
        made.feed(chunk)
    return made


async def read(chunks: list[bytes], *, limit: int = 1000) -> bytes:
    """The data of a stream that gets its chunks one by one while it is read."""
    made = stream()
    reading = asyncio.create_task(made.read_data(limit, reserve=lambda _: True))
    for chunk in chunks:
        await asyncio.sleep(0)
        made.feed(chunk)
    return await asyncio.wait_for(reading, 5)


DATA = b"..one\r\ntwo\n.\nthree\r.\r\r\n...four\r\n\r\n.\r\nNEXT"


@pytest.mark.parametrize("cut", range(len(DATA)))
async def test_data_cut_at_every_byte(cut: int) -> None:
    assert await read([DATA[:cut], DATA[cut:]]) == b".one\r\ntwo\n.\nthree\r.\r\r\n..four\r\n\r\n"


@settings(deadline=None)
@given(st.lists(st.integers(0, len(DATA)), max_size=8))
def test_data_cut_anyhow(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(DATA)]
    chunks = [DATA[a:b] for a, b in pairwise(edges)]
    assert asyncio.run(read(chunks)) == b".one\r\ntwo\n.\nthree\r.\r\r\n..four\r\n\r\n"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_what_is_stuffed_comes_back(content: bytes) -> None:
    message = content.replace(b"\r\n.", b"\r\n..") + b"\r\n"
    if message.startswith(b"."):
        message = b"." + message
    assert asyncio.run(read([message + b".\r\n"])) == content + b"\r\n"


async def test_an_empty_message() -> None:
    assert await read([b".\r\n"]) == b""


@pytest.mark.parametrize("false_end", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r"], ids=repr)
async def test_only_crlf_dot_crlf_ends_data(false_end: bytes) -> None:
    made = stream(b"a" + false_end + b"b")
    made.feed_eof()
    with pytest.raises(ClientGone):
        await made.read_data(1000, reserve=lambda _: True)


async def test_size_counts_as_it_arrives_and_the_rest_is_thrown_away() -> None:
    held: list[int] = []
    made = stream(b"x" * 500)

    def reserve(count: int) -> bool:
        held.append(count)
        return True

    reading = asyncio.create_task(made.read_data(1000, reserve=reserve))
    for _ in range(3):
        await asyncio.sleep(0)
        made.feed(b"y" * 400)
    made.feed(b"\r\n.\r\nNOOP\r\n")
    with pytest.raises(DataTooLarge) as caught:
        await reading
    assert caught.value.ended
    assert sum(held) <= 1000
    assert await made.read_line(100) == b"NOOP"


@pytest.mark.parametrize("cut", [1, 7, 1000])
async def test_a_message_may_have_its_limit_and_not_a_byte_more(cut: int) -> None:
    # Two bytes of the limit are the last line's end.
    for size, fits in ((98, True), (99, False), (100, False)):
        wire = b"x" * size + b"\r\n.\r\n"
        chunks = [wire[start : start + cut] for start in range(0, len(wire), cut)]
        if fits:
            assert len(await read(chunks, limit=100)) == 100
        else:
            with pytest.raises(DataTooLarge):
                await read(chunks, limit=100)


@pytest.mark.parametrize("cut", [1, 2, 7, 1000])
async def test_the_budget_is_asked_for_the_bytes_of_the_message_and_for_each_once(cut: int) -> None:
    wire = b"..\r\n" * 20 + b"x\r\n.\r\nNOOP\r\n"
    asked: list[int] = []

    def reserve(count: int) -> bool:
        asked.append(count)
        return True

    reader = DataReader(1000, reserve=reserve)
    for start in range(0, len(wire), cut):
        if reader.feed(wire[start : start + cut]):
            break
    assert sum(asked) == len(reader.result()) == 63
    assert all(asked)


async def test_an_endless_message_is_not_read_for_ever() -> None:
    made = stream()
    reading = asyncio.create_task(made.read_data(1000, reserve=lambda _: True))
    for _ in range(100):
        if reading.done():
            break
        made.feed(b"x" * 1000)
        await asyncio.sleep(0)
    with pytest.raises(DataTooLarge) as caught:
        await reading
    assert not caught.value.ended


async def test_no_room_is_no_loss_of_step() -> None:
    made = stream(b"x" * 50 + b"\r\n.\r\nNOOP\r\n")
    with pytest.raises(NoRoom):
        await made.read_data(1000, reserve=lambda _: False)
    assert await made.read_line(100) == b"NOOP"


async def test_bytes_count_at_the_moment_they_arrive_and_nothing_is_kept_after_a_no() -> None:
    asked: list[int] = []
    made = stream()

    def reserve(count: int) -> bool:
        asked.append(count)
        return sum(asked) <= 500

    reading = asyncio.create_task(made.read_data(10_000, reserve=reserve))
    await asyncio.sleep(0)
    # A crowd's uploads all come in one turn of the loop: what each brings is counted, or thrown away, before the next.
    for _ in range(20):
        made.feed(b"x" * 100)
    assert asked == [100] * 6
    assert made._reader is not None
    assert len(made._reader._message.getvalue()) == len(made._reader._pending) == 0
    assert sys.getsizeof(made._reader._message) < 200, "nor is its memory"
    made.feed(b"\r\n.\r\nNOOP\r\n")
    with pytest.raises(NoRoom):
        await reading
    assert await made.read_line(100) == b"NOOP"


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"\r\n.", b"\r\n", b".", b"\r", b"\n", b"a", b"..", b"x" * 40]), max_size=60), st.data()
)
def test_cutting_piece_by_piece_is_cutting_the_whole(words: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(words) + b"\r\n.\r\n" + b"NEXT"
    end = (CRLF + wire).index(END_OF_DATA)
    wanted = (CRLF + wire)[: end + 2].replace(b"\r\n.", b"\r\n").removeprefix(CRLF)
    edges = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    reader = DataReader(10_000, reserve=lambda _: True)
    fed = 0
    for start, stop in pairwise([0, *edges, len(wire)]):
        fed = stop
        if reader.feed(wire[start:stop]):
            break
    assert reader.result() == wanted
    assert bytes(reader.rest) + wire[fed:] == (CRLF + wire)[end + len(END_OF_DATA) :]


def test_lines_that_begin_with_a_dot_are_found_wherever_the_window_ends() -> None:
    for shift in range(6):
        line = b"x" * (WINDOW - 4 + shift) + b"\r\n..y\r\n"
        reader = DataReader(10 * WINDOW, reserve=lambda _: True)
        assert reader.feed(line + line + b".\r\n")
        assert reader.result() == line.replace(b"..", b".") * 2


async def test_stuffed_dots_do_not_count_for_the_size() -> None:
    lines = b"..\r\n" * 250
    assert len(await read([lines + b".\r\n"], limit=750)) == 750


@pytest.mark.parametrize("line", [b"NO\rOP\r\n", b"NOOP\n", b"NO\0OP\r\n", b"\n", b"NOOP\r\r\n"], ids=repr)
async def test_bare_newlines_in_commands_are_refused(line: bytes) -> None:
    made = stream(line + b"NEXT\r\n")
    with pytest.raises(BareNewline) as caught:
        await made.read_line(100)
    assert caught.value.ambiguous == (b"\r\n" not in line)
    assert await made.read_line(100) == b"NEXT"


async def test_a_line_may_have_its_limit_and_not_a_byte_more() -> None:
    made = stream(b"x" * 98 + b"\r\n" + b"y" * 99 + b"\r\nNEXT\r\n")
    assert await made.read_line(100) == b"x" * 98
    with pytest.raises(LineTooLong):
        await made.read_line(100)
    assert await made.read_line(100) == b"NEXT"


@pytest.mark.parametrize("reads", ["line", "data"])
async def test_a_client_that_talks_on_is_held_back_until_it_is_heard_again(reads: str) -> None:
    said: list[str] = []
    made = ByteStream(pause=lambda: said.append("pause"), resume=lambda: said.append("resume"))
    made.feed(b"x" * (READ_AHEAD - 2) + b"\r\n")
    assert said == []
    for _ in range(3):
        made.feed(b".\r\n")
    assert said == ["pause"]
    if reads == "line":
        assert len(await made.read_line(READ_AHEAD)) == READ_AHEAD - 2
    else:
        assert len(await made.read_data(READ_AHEAD, reserve=lambda _: True)) == READ_AHEAD
    assert said == ["pause", "resume"]


async def test_a_long_line_is_thrown_away_as_it_comes() -> None:
    made = stream(b"x" * 101)
    reading = asyncio.create_task(made.read_line(100))
    for _ in range(50):
        await asyncio.sleep(0)
        made.feed(b"x" * 1000)
        assert len(made._buffer) <= 2101
    made.feed(b"\r\nNEXT\r\n")
    with pytest.raises(LineTooLong):
        await reading
    assert await made.read_line(100) == b"NEXT"
