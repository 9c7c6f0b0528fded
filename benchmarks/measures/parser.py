"""The message parser beside its peers: the table of ``benchmarks.parser_bench``."""

from __future__ import annotations

from typing import Final

from benchmarks import parser_bench
from benchmarks.world import Report, Target, World

SMALL: Final = 10_000
"""Bytes of the largest message where what is measured says nothing anyway."""


def measure(world: World) -> Report:
    sizes = {name: about for name, about in parser_bench.SIZES.items() if world.scale.factor >= 0.1 or about <= SMALL}
    results = parser_bench.measure(world.scale.runs, say=lambda line: world.say(f"  {line}"), sizes=sizes)
    report = Report(skipped=list(results.skipped))
    for row in results.rows:
        note = "" if row.peer == "relay" else f"the relay is {row.ratio:.1f} × as fast"
        report.row(f"Message of {row.size} to the API's JSON", row.peer, "ms", [row.wall_ms], note)
    missed = results.missed()
    for peer, least in parser_bench.TARGETS.items():
        ratios = [row.ratio for row in results.rows if row.peer == peer]
        if ratios:
            report.targets.append(
                Target(
                    text=f"Parser: ≥ {least:.0f} × {peer} at every size",
                    reached=f"{min(ratios):.1f} to {max(ratios):.1f} ×",
                    met=not any(peer in line for line in missed),
                )
            )
    return report
