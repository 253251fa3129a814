"""results/paths.md and paths.svg from the rows of `python -m benchmarks.paths`."""

import json
import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.bars import bars

Row = dict[str, Any]
"""A `benchmarks.paths.Row` as its fields."""

HEAD = (
    "| case | mode | published best | first plan (CPU) | 50 ms | 2 s | end (CPU) | to published | bound | gap "
    "| evaluations/s | sizes |\n|" + "---|" * 12
)

MODES = {
    "given": "places given, equal quotas",
    "placed": "sizes given, places and quotas chosen",
    "sized": "sizes, places and quotas chosen",
}


def write_report(rows: Sequence[Row], command: str, folder: Path) -> None:
    """All three files: what was measured, the tables, the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "paths.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (folder / "paths.md").write_text("\n".join(_page(rows, command)) + "\n", encoding="utf-8")
    (folder / "paths.svg").write_text(_drawing(rows), encoding="utf-8")


def line(row: Row) -> str:
    published, makespan = row["published_seconds"], row["makespan_seconds"]
    cells = [
        row["case"],
        row["mode"],
        f"{published:.2f}" if published else "-",
        f"{row['first_seconds']:.2f} ({1000 * row['first_cpu_seconds']:.0f} ms)",
        *(f"{value:.2f}" for value in row["early_seconds"]),
        f"{makespan:.2f} ({row['budget_seconds']:.0f} s)",
        f"{makespan / published - 1:+.1%}" if published else "-",
        f"{row['bound_seconds']:.2f}",
        f"{makespan / row['bound_seconds']:.3f}",
        f"{row['evaluations_per_second']:,.0f}",
        ",".join(map(str, row["sizes"])),
    ]
    return "| " + " | ".join(cells) + " |"


def _page(rows: Sequence[Row], command: str) -> Iterable[str]:
    yield "# The planner in the published scheduler's setting"
    yield ""
    yield from (f"`{one}`" for one in command.split("; "))
    yield ""
    yield "Seconds of makespan; planning seconds are CPU seconds of one process, so other work on the machine has no"
    yield "part in them. `published`: the scheduler's own arrangement and best figure (`benchmarks/data/`); `seed`:"
    yield "peers dealt to stages at random, and the search begun from it; only that where places are chosen."
    yield from (f"`{mode}`: {text}." for mode, text in MODES.items())
    yield ""
    yield "![makespans over the lower bound](paths.svg)"
    yield ""
    yield "| peers | mode | cases | mean gap, first plan | after 2 s | end | 2 s over end |"
    yield "|---|---|---|---|---|---|---|"
    for (peers, mode), group in _grouped(rows):
        means = [statistics.mean(gaps) for gaps in zip(*map(_gaps, group), strict=True)]
        late = statistics.mean(row["early_seconds"][-1] / row["makespan_seconds"] for row in group)
        yield (
            f"| {peers} | {mode} | {len(group)} | "
            + " | ".join(f"{mean:.3f}" for mean in means)
            + f" | {late:.3f} |"
        )
    yield ""
    yield "The gap is makespan over lower bound. Where places are chosen the bound takes every visit at its"
    yield "cheapest, as if all had the nearest neighbours, and is weaker. What numba compiles (about 12 s, once a"
    yield "machine) was there before; its import, half a second or more, falls into the first case of a command."
    yield ""
    yield HEAD
    yield from map(line, rows)


def _grouped(rows: Sequence[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    def key(row: Row) -> tuple[str, str]:
        return row["case"].split(" ")[0].rstrip(
            ","
        ), f"{row['mode']}, {row['budget_seconds']:.0f} s"

    ordered = sorted(rows, key=lambda row: (int(key(row)[0][2:]), key(row)[1]))
    return [(name, list(group)) for name, group in groupby(ordered, key)]


def _gaps(row: Row) -> tuple[float, float, float]:
    """Of the first plan, the one after 2 s, and the last."""
    found = row["first_seconds"], row["early_seconds"][-1], row["makespan_seconds"]
    first, early, end = (value / row["bound_seconds"] for value in found)
    return first, early, end


def _drawing(rows: Sequence[Row]) -> str:
    """Mean gaps by number of peers and mode; the line is the lower bound."""
    groups = []
    for (peers, mode), group in _grouped(rows):
        means = [statistics.mean(gaps) for gaps in zip(*map(_gaps, group), strict=True)]
        label = "\n".join((peers, *mode.split(", ")))
        groups.append((label, dict(zip(("first plan", "after 2 s", "end"), means, strict=True))))
    return bars("makespan over lower bound, means", groups, level=1.0)
