"""What was measured, as Markdown, as a few lines for the terminal and as a chart."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.measures import accept
from benchmarks.world import Report, Row, Target, median

TITLES: Final = {
    "accept": "Durable accept",
    "large": "A 10 MB message",
    "forward": "Forwarding",
    "drain": "Draining a backlog",
    "latency": "Latency",
    "memory": "Memory",
    "scale": "Scale",
    "parser": "Parser",
}
OURS, OTHER, BOUND = "#1a7f5a", "#8a8f98", "#d5d8dc"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Where and how it was measured."""

    began: float
    seconds: float
    command: str
    commit: str
    machine: str
    scale: str
    runs: int


def number(value: float) -> str:
    if value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(found: Mapping[str, Report], about: About) -> str:
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(about.began))
    lines = [
        "# Benchmark results",
        "",
        "Written by `make bench`; do not edit. Numbers of different machines or runs cannot be compared: "
        "the ratios within one run are what counts. How it is measured: [docs/performance.md](../docs/performance.md).",
        "",
        f"- **When**: {began}, {about.seconds / 60:.0f} min",
        f"- **What**: commit {about.commit}, `{about.command}` ({about.scale}), medians of {about.runs} "
        f"interleaved {'runs' if about.runs > 1 else 'run: too few to judge by'}",
        f"- **Where**: {about.machine}",
        "",
        "## Targets",
        "",
        "| Target | Reached | |",
        "|---|---|---|",
        *(f"| {t.text} | {t.reached} | {verdict(t)} |" for one in found.values() for t in one.targets),
        "",
    ]
    for name, one in found.items():
        lines += [f"## {TITLES[name]}", ""]
        lines += [f"> {line}\n" for line in one.skipped]
        if one.rows:
            lines += ["| Measure | | Median | Unit | Runs | |", "|---|---|---:|---|---|---|"]
            lines += [_row(row) for row in one.rows]
            lines.append("")
        lines += [f"{note}\n" for note in one.notes]
    return "\n".join(lines).rstrip() + "\n"


def _row(row: Row) -> str:
    runs = " ".join(number(value) for value in row.values) if len(row.values) > 1 else ""
    return f"| {row.measure} | {row.what} | {number(row.median)} | {row.unit} | {runs} | {row.note} |"


def verdict(target: Target) -> str:
    return {True: "met", False: "**not met**", None: "not judged"}[target.met]


def summary(found: Mapping[str, Report]) -> str:
    """For the terminal: each target in a line, then what was skipped."""
    lines = [f"{verdict(t).strip('*'):10}  {t.text}: {t.reached}" for one in found.values() for t in one.targets]
    return "\n".join(lines + [f"skipped     {line}" for one in found.values() for line in one.skipped])


def with_sentence(readme: str, found: Mapping[str, Report], about: About) -> str:
    """The README with its line of results written anew, between its two marks."""
    line = sentence(found, about)
    return re.sub(r"(?s)(<!-- bench -->\n).*?(<!-- /bench -->)", lambda marks: marks[1] + line + marks[2], readme)


def sentence(found: Mapping[str, Report], about: About) -> str:
    """The results in a sentence or two, each number the median ratio of the runs, better or worse."""

    def values(name: str, measure: str, what: str) -> tuple[float, ...]:
        rows = found[name].rows if name in found else []
        return next((row.values for row in rows if row.measure.startswith(measure) and row.what.startswith(what)), ())

    def times(name: str, measure: str, peer: str) -> str:
        pairs = zip(values(name, measure, "relay"), values(name, measure, peer), strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return f"{median(ratios):.1f}" if ratios else "–"

    accepts = ("Durable accept, kept connections", "Durable accept, a connection a message")
    kept, fresh = (median(values("accept", measure, "relay")) for measure in accepts)
    node = [times("accept", measure, "node peer") for measure in accepts]
    postfix = [times("accept", measure, "Postfix") for measure in accepts]
    large = median(values("large", "10 MB message", "relay"))
    drained = median(values("drain", "Backlog of", "relay"))
    day = time.strftime("%Y-%m-%d", time.gmtime(about.began))
    judged = [target for one in found.values() for target in one.targets if target.met is not None]
    machine = about.machine.partition(" (")[0]
    lines = (
        "![Messages a second and milliseconds of the relay and its peers](benchmarks/chart.svg)",
        "",
        f"On {machine} that clients, Redis and PostgreSQL share ({day}, commit {about.commit}):",
        f"{number(kept)} durably accepted messages a second on kept connections, {number(fresh)} with one each;",
        f"{node[0]} and {node[1]} times the original's shape, {postfix[0]} and {postfix[1]} times Postfix.",
        f"A 10 MB message takes {number(large)} ms, a backlog goes out at {number(drained)} a second.",
        f"{sum(bool(target.met) for target in judged)} of {len(judged)} targets are met:",
        "[benchmarks/RESULTS.md](benchmarks/RESULTS.md).",
    )
    return "\n".join(lines) + "\n"


def write_charts(found: Mapping[str, Report], folder: Path) -> list[Path]:
    """``chart.png`` and ``chart.svg`` of the comparisons; [] without matplotlib or anything to show."""
    panels = _panels(found)
    if not panels or find_spec("matplotlib") is None:
        return []
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "plunk-smtp-relay"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.3 * len(panels), 3.0), squeeze=False)
    for axis, (title, unit, rows) in zip(axes[0], panels, strict=True):
        _draw(axis, title, unit, rows)
    figure.tight_layout()
    paths = [folder / "chart.png", folder / "chart.svg"]
    figure.savefig(paths[0], dpi=150)
    figure.savefig(paths[1], metadata={"Date": None})
    pyplot.close(figure)
    return paths


def _panels(found: Mapping[str, Report]) -> list[tuple[str, str, list[Row]]]:
    wanted = (
        ("accept", "Durable accept, kept connections", "Durable accept,\nkept connections", "msg/s, more is better"),
        (
            "accept",
            "Durable accept, a connection a message",
            "Durable accept,\na connection a message",
            "msg/s, more is better",
        ),
        ("large", "10 MB message, from its first byte to its 250", "10 MB message\n", "ms, less is better"),
        ("drain", "Backlog of", "Forwarding a backlog,\nall cores", "msg/s, more is better"),
    )
    panels = []
    for name, measure, title, unit in wanted:
        rows = [
            row
            for row in (found[name].rows if name in found else [])
            if row.measure.startswith(measure) and row.what not in accept.BOUNDS
        ]
        if len(rows) > 1:
            panels.append((title, unit, rows))
    return panels


def _draw(axis: Any, title: str, unit: str, rows: Sequence[Row]) -> None:
    names = [row.what.partition(",")[0] for row in rows]
    values = [row.median for row in rows]
    bars = axis.bar(names, values, color=[OURS if name == "relay" else OTHER for name in names], width=0.62)
    axis.bar_label(bars, labels=[number(value) for value in values], padding=2, fontsize=9)
    axis.set_title(title, fontsize=10)
    axis.set_ylabel(unit, fontsize=8)
    axis.set_ylim(0, max(values) * 1.15)
    axis.tick_params(labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
