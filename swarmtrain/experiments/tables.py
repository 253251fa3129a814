"""The tables of a report: rows of estimates, as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from swarmtrain.experiments.matrix import SEED
from swarmtrain.experiments.noise import Estimate, estimate
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
    """One group: what it is, how many of its runs are finished, and its figures; None where no run has one."""

    group: Group
    runs: str
    estimates: tuple[Estimate | None, ...]


@dataclass(frozen=True, slots=True)
class Table:
    axes: tuple[str, ...]
    figures: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def header(self) -> list[str]:
        return [*self.axes, "runs", *(TITLES.get(figure, figure) for figure in self.figures)]


def table_of(study: Study) -> Table:
    """All groups with every figure that any of them has. Raises SwarmError when scipy is missing."""
    wanted = [*(FIGURES if study.has_curves else ()), *study.report.figures]
    figures = tuple(f for f in wanted if any(study.values(group, f) for group in study.groups))
    rows = []
    for group in study.groups:
        values = [study.values(group, figure) for figure in figures]
        # A target that only some seeds reached has no mean worth the name.
        estimates = tuple(
            estimate(found) if found and _is_whole(group, figure, found) else None
            for figure, found in zip(figures, values, strict=True)
        )
        rows.append(Row(group, f"{len(group.results)} of {group.planned}", estimates))
    axes = tuple(axis for axis in study.axes if axis != SEED)
    return Table(axes, figures, tuple(rows))


def _is_whole(group: Group, figure: str, found: Sequence[float]) -> bool:
    return figure not in ("T", "steps_to_target") or len(found) == len(group.results)


def cells(row: Row, table: Table) -> list[str]:
    """The row for people: means with the half width of their interval."""
    labels = [row.group.labels[axis] for axis in table.axes]
    return [*labels, row.runs, *(_said(found) for found in row.estimates)]


def _said(found: Estimate | None) -> str:
    if found is None:
        return "-"
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
    """CSV: for every figure its mean and the half width of its 95 % interval, empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pairs = [name for figure in table.figures for name in (figure, f"{figure}_half_width")]
    writer.writerow([*table.axes, "runs", *pairs])
    for row in table.rows:
        labels = [row.group.labels[axis] for axis in table.axes]
        numbers: list[float | str] = []
        for found in row.estimates:
            mean, half = (found.mean, found.half_width) if found else (None, None)
            numbers += ["" if mean is None else mean, "" if half is None else half]
        writer.writerow([*labels, len(row.group.results), *numbers])
    return text.getvalue()
