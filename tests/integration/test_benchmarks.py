"""Each measure of the benchmarks still runs, in a size that says nothing about speed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.__main__ import MEASURES
from benchmarks.measures import accept
from benchmarks.world import ROOT, TINY, Report, Row, Target, World, make_world

SLOW = {
    "scale": "a dozen servers; what it is made of runs in the other measures",
    "forward": "drain calls it",
    "large": "accept runs the same clients, memory the large message",
}


RATES = {f"Durable accept, {pattern}" for pattern in accept.PATTERNS}
"""In a window of a fraction of a second on a busy machine these may be 0."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with make_world(TINY, say=lambda line: None) as made:
        yield made


@pytest.mark.parametrize("name", sorted(MEASURES.keys() - SLOW.keys()))
def test_a_measure_brings_rows_and_targets(world: World, name: str) -> None:
    found = MEASURES[name](world)
    assert found.rows
    assert all(any(value > 0 for value in row.values) for row in found.rows if row.measure not in RATES)
    assert found.targets
    assert f"## {report.TITLES[name]}" in report.markdown({name: found}, ABOUT)


ABOUT = report.About(began=0, seconds=60, command="make bench", commit="abc", machine="2 cores", scale="tiny", runs=1)


def test_results_tell_what_was_met_what_was_not_and_what_was_skipped() -> None:
    found = Report(skipped=["Postfix: not installed"])
    found.row("Rate", "relay", "msg/s", [10, 30, 20])
    found.ratio_target("twice the peer", [10, 30, 20], [5, 10, 10], least=2.1)
    found.ratio_target("a peer that is missing", [10], [], least=2)
    found.targets.append(Target(text="small", reached="1 MB", met=True))
    text = report.markdown({"accept": found}, ABOUT)
    assert "| Rate | relay | 20 | msg/s | 10 30 20 |  |" in text
    # The ratios are 2, 3 and 2: each run's own, not the ratio of the medians.
    assert "| twice the peer | 2.00 × | **not met** |" in text
    assert "| a peer that is missing | the peer was not there, or finished nothing | not judged |" in text
    assert "| small | 1 MB | met |" in text
    assert "> Postfix: not installed" in text
    assert report.summary({"accept": found}).splitlines()[0].startswith("not met")


def test_the_readme_gets_its_line_between_the_marks() -> None:
    found = Report()
    for measure in accept.PATTERNS:
        for what, values in (("relay", [10, 30, 20]), ("node peer", [5, 5, 5]), ("Postfix", [10, 10, 10])):
            found.row(f"Durable accept, {measure}", what, "msg/s", values)
    readme = report.with_sentence("a\n<!-- bench -->\nold\n<!-- /bench -->\nb", {"accept": found}, ABOUT)
    assert "old" not in readme
    assert "4.0 and 4.0 times the original's shape, 2.0 and 2.0 times Postfix" in readme
    assert readme.startswith("a\n<!-- bench -->\n![")
    assert "On 2 cores" in readme
    assert readme.endswith("\n<!-- /bench -->\nb")
    assert "<!-- bench -->\n" in (ROOT / "README.md").read_text("utf-8")


def test_a_row_knows_its_median() -> None:
    assert Row(measure="m", what="w", unit="u", values=(1, 100, 2)).median == 2


def test_make_bench_knows_its_options() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    command = [sys.executable, "-m", "benchmarks", "--help"]
    shown = subprocess.run(command, cwd=Path(ROOT), capture_output=True, text=True, check=True).stdout
    for option in ("--scale", "--runs", "--endurance"):
        assert option in makefile
        assert option in shown
