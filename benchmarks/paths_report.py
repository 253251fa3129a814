"""results/paths.md and paths.svg from the rows of `python -m benchmarks.paths`."""

import json
import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

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

BAR, SPACE, HEIGHT, MARGIN = 14, 26, 260, 60
COLOURS = {"first": "#c9c9c9", "2 s": "#8fb3d9", "end": "#2b6cb0", "bound": "#1a1a1a"}


def write_report(rows: Sequence[Row], command: str, folder: Path) -> None:
    """All three files: what was measured, the tables, the picture."""
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
    yield f"`{command}`. Seconds of makespan; planning seconds are CPU seconds of one process, so other work on the"
    yield "machine has no part in them. `published`: the scheduler's own arrangement and best figure"
    yield (
        "(`benchmarks/data/`); `seed`: peers dealt to stages at random. `given`: " + MODES["given"]
    )
    yield "; `sized`: " + MODES["sized"] + "."
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
    yield "The gap is makespan over lower bound. Where places are chosen the bound deals all visits to all peers, each"
    yield "with its cheapest way, and is weak."
    yield ""
    yield HEAD
    yield from map(line, rows)


def _grouped(rows: Sequence[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    def key(row: Row) -> tuple[str, str]:
        return row["case"].split(" ")[0].rstrip(","), row["mode"]

    ordered = sorted(rows, key=lambda row: (int(key(row)[0][2:]), row["mode"]))
    return [(name, list(group)) for name, group in groupby(ordered, key)]


def _gaps(row: Row) -> tuple[float, float, float]:
    """Of the first plan, the one after 2 s, and the last."""
    found = row["first_seconds"], row["early_seconds"][-1], row["makespan_seconds"]
    first, early, end = (value / row["bound_seconds"] for value in found)
    return first, early, end


def _drawing(rows: Sequence[Row]) -> str:
    """Mean gaps by number of peers and mode; the line is the lower bound."""
    groups = _grouped(rows)
    most = max((max(_gaps(row)) for row in rows), default=1.0)
    width = 2 * MARGIN + len(groups) * (3 * BAR + SPACE)
    base = MARGIN + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {base + 80}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{base + 80}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="24" font-weight="bold">makespan over lower bound, means</text>',
    ]
    for place, ((peers, mode), group) in enumerate(groups):
        left = MARGIN + place * (3 * BAR + SPACE)
        means = [statistics.mean(gaps) for gaps in zip(*map(_gaps, group), strict=True)]
        for index, (mean, name) in enumerate(zip(means, ("first", "2 s", "end"), strict=True)):
            x, tall = left + index * BAR, mean / most * HEIGHT
            parts.append(
                f'<rect x="{x}" y="{base - tall:.1f}" width="{BAR - 2}" height="{tall:.1f}" fill="{COLOURS[name]}"/>'
            )
        parts.append(
            f'<text x="{left}" y="{base - means[0] / most * HEIGHT - 5:.0f}">{means[2]:.2f}</text>'
        )
        parts.append(f'<text x="{left}" y="{base + 14}">{peers}</text>')
        parts.append(f'<text x="{left}" y="{base + 28}">{mode}</text>')
    level = base - HEIGHT / most
    parts.append(
        f'<line x1="{MARGIN - 10}" x2="{width - MARGIN}" y1="{level:.1f}" y2="{level:.1f}" '
        f'stroke="{COLOURS["bound"]}"/>'
    )
    for place, name in enumerate(("first", "2 s", "end", "bound")):
        x = MARGIN + place * 90
        parts.append(
            f'<rect x="{x}" y="{base + 46}" width="14" height="6" fill="{COLOURS[name]}"/>'
        )
        parts.append(f'<text x="{x + 18}" y="{base + 53}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
