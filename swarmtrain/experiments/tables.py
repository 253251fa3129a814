"""The tables of a report: rows of estimates, as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from swarmtrain.experiments.matrix import SEED
from swarmtrain.experiments.noise import Estimate
from swarmtrain.experiments.results import FIGURES, Group, Study

TITLES = {
    "T": "T, s",
    "steps_to_target": "steps to target",
    "steady_step_seconds": "steady step, s",
    "longest_step_seconds": "longest step, s",
    "tokens_per_second": "tokens/s",
    "bytes_per_token": "bytes sent a token",
    "loss_at_equal_tokens": "loss at equal tokens",
    "loss_at_equal_seconds": "loss at equal time",
    "loss_at_equal_bytes": "loss at equal bytes",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One group and its figures; None where not all of its runs have one, and `counts` how many do."""

    group: Group
    estimates: tuple[Estimate | None, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Table:
    axes: tuple[str, ...]
    figures: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def header(self) -> list[str]:
        return [*self.axes, "runs", *(TITLES.get(figure, figure) for figure in self.figures)]


def table_of(study: Study) -> Table:
    """All groups with every figure that any run has. Raises SwarmError when scipy is missing."""
    wanted = dict.fromkeys([*(FIGURES if study.has_curves else ()), *study.report.figures])
    figures = tuple(f for f in wanted if any(study.sample(g, f).by_seed for g in study.groups))
    rows = [
        Row(
            group,
            tuple(study.estimate(group, figure) for figure in figures),
            tuple(len(study.sample(group, figure).by_seed) for figure in figures),
        )
        for group in study.groups
    ]
    axes = tuple(axis for axis in study.axes if axis != SEED)
    return Table(axes, figures, tuple(rows))


def cells(row: Row, table: Table) -> list[str]:
    """The row for people: means with the half width of their interval, or how few of the runs have the figure."""
    group = row.group
    said = (
        _said(found) if found else f"- ({count} of {len(group.results)})" if count else "-"
        for found, count in zip(row.estimates, row.counts, strict=True)
    )
    return [*(group.labels[axis] for axis in table.axes), group.runs, *said]


def _said(found: Estimate) -> str:
    if not found.half_width or found.half_width < 1e-6 * abs(found.mean):
        return _number(found.mean)
    # The interval's second digit says where the mean's digits end to mean anything.
    places = 1 - math.floor(math.log10(found.half_width))
    if places <= 0:
        return f"{round(found.mean, places):,.0f} ± {round(found.half_width, places):,.0f}"
    return f"{found.mean:,.{places}f} ± {found.half_width:,.{places}f}"


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def markdown(table: Table) -> str:
    lines = [_line(table.header), _line(["---"] * len(table.header))]
    lines += [_line(cells(row, table)) for row in table.rows]
    return "\n".join(lines) + "\n"


def _line(entries: Sequence[str]) -> str:
    return "| " + " | ".join(entry.replace("|", "\\|") for entry in entries) + " |"


def comma_separated(table: Table) -> str:
    """CSV: how many runs are in the row, and of every figure its mean, half width of its 95 % interval and runs.

    Mean and half width are empty where there is none.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{f}{part}" for f in table.figures for part in ("", "_half_width", "_n")]
    runs = ["runs", "runs_planned", "runs_failed", "runs_halted"]
    writer.writerow([*table.axes, *runs, *columns])
    for row in table.rows:
        group = row.group
        numbers: list[float | None] = [len(group.results), group.planned]
        numbers += [group.count("failed"), group.count("halted")]
        for found, count in zip(row.estimates, row.counts, strict=True):
            numbers += [found.mean, found.half_width] if found else [None, None]
            numbers.append(count)
        writer.writerow([*(group.labels[axis] for axis in table.axes), *numbers])
    return text.getvalue()
