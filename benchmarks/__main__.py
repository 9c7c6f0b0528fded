"""``python -m benchmarks [NAME …]``: the relay and its peers in one run; writes ``RESULTS.md`` and a chart."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from benchmarks import report
from benchmarks.measures import accept, drain, forward, large, latency, memory, parser, scale
from benchmarks.world import CORES, FULL, QUICK, ROOT, TINY, Measure, Report, make_world

MEASURES: Final[Mapping[str, Measure]] = {
    "accept": accept.measure,
    "large": large.measure,
    "forward": forward.measure,
    "drain": drain.measure,
    "latency": latency.measure,
    "memory": memory.measure,
    "scale": scale.measure,
    "parser": parser.measure,
}
HOME: Final = Path(__file__).parent
SCALES: Final = {"full": FULL, "quick": QUICK, "tiny": TINY}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(MEASURES)))
@click.option("--scale", "scale_name", type=click.Choice(list(SCALES)), default="full", show_default=True)
@click.option("--runs", type=int, help="Interleaved runs of each measure; the medians count.")
@click.option("--endurance", type=int, help="Messages over which growth of memory is looked for (full: 60,000).")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the results (default: benchmarks/ for a full run of everything, .bench/ for less).",
)
def main(names: tuple[str, ...], scale_name: str, runs: int | None, endurance: int | None, output: Path | None) -> None:
    """Measure; without NAMES, everything."""
    size = SCALES[scale_name]
    size = replace(size, runs=runs or size.runs, endurance=endurance or size.endurance)
    found: dict[str, Report] = {}
    started = time.time()
    with make_world(size, say=lambda line: click.echo(line, err=True)) as world:
        for name in names or MEASURES:
            began = time.monotonic()
            click.echo(f"{name} …", err=True)
            try:
                found[name] = MEASURES[name](world)
            except Exception as error:
                # The others' results are still worth having; the report says what failed.
                found[name] = Report(skipped=[f"{name} failed: {type(error).__name__}: {error}"])
                click.echo(found[name].skipped[0], err=True)
            click.echo(f"{name}: {time.monotonic() - began:.0f} s", err=True)
    is_whole = scale_name == "full" and not names
    folder = output or (HOME if is_whole else ROOT / ".bench")
    folder.mkdir(parents=True, exist_ok=True)
    about = report.About(
        began=started,
        seconds=time.time() - started,
        command="make bench" + _command_options(names, scale_name, runs, endurance),
        commit=_commit(),
        machine=_machine(),
        scale=scale_name,
        runs=size.runs,
    )
    (folder / "RESULTS.md").write_text(report.markdown(found, about), "utf-8")
    charts = report.write_charts(found, folder)
    if folder == HOME:
        readme = ROOT / "README.md"
        readme.write_text(report.with_sentence(readme.read_text("utf-8"), found, about), "utf-8")
    click.echo(report.summary(found))
    click.echo(f"Written: {folder / 'RESULTS.md'}" + "".join(f", {path}" for path in charts), err=True)
    sys.exit(1 if any(" failed: " in line for one in found.values() for line in one.skipped) else 0)


def _command_options(names: tuple[str, ...], scale: str, runs: int | None, endurance: int | None) -> str:
    options = [f"BENCH={' '.join(names)!r}"] if names else []
    options += ["QUICK=1"] if scale == "quick" else []
    options += [f"RUNS={runs}"] if runs else []
    options += [f"ENDURANCE={endurance}"] if endurance else []
    return "".join(f" {option}" for option in options)


def _commit() -> str:
    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    if not (commit := git("rev-parse", "--short", "HEAD")):
        return "unknown"
    # What the benchmark itself writes is no change of what is measured.
    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/RESULTS.md", ":!benchmarks/chart.*", ":!README.md")
    return commit + (" with uncommitted changes" if changed else "")


def _machine() -> str:
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text("utf-8").splitlines() if "model name" in line
        ]
        model = found[0] if found else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = json.dumps([round(value, 1) for value in os.getloadavg()])
    return (
        f"{CORES} cores ({model or platform.machine()}), {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; load average at the end {load}"
    )


if __name__ == "__main__":
    main()
