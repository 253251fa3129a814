"""Whether two results differ by more than noise: Welch's test over seeds, figure by figure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.noise import Difference, Estimate, differ, estimate
from swarmtrain.experiments.results import FIGURES, Group, Study, read_study


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one pair of groups."""

    group: str
    figure: str
    first: Estimate
    second: Estimate
    difference: Difference

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "differs": self.difference.is_real}


def compared(first: str, second: str) -> list[Compared]:
    """Each of `first` and `second` is DIR, or DIR:CHOICE: groups of that choice, or with CHOICE in their name.

    One group each are compared with each other, several by equal names. Raises ConfigError when nothing can be.
    """
    (study_a, groups_a), (study_b, groups_b) = _chosen(first), _chosen(second)
    if len(groups_a) == len(groups_b) == 1:
        pairs = [(groups_a[0], groups_b[0])]
    else:
        by_name = {group.name: group for group in groups_b}
        pairs = [(group, by_name[group.name]) for group in groups_a if group.name in by_name]
    rows = [row for a, b in pairs for row in _pair(study_a, a, study_b, b)]
    if not rows:
        raise ConfigError(
            f"{first} and {second} have nothing in common",
            f"the groups are {_names(groups_a)} and {_names(groups_b)}",
            "name one group of each, as in runs/routes:policy=wired",
        )
    return rows


def _names(groups: Sequence[Group]) -> str:
    return "; ".join(group.name for group in groups)


def _names_of(group: Group) -> set[str]:
    """Its whole name, each `axis=choice` of it, and each choice alone."""
    return {group.name, *group.name.split(", "), *group.labels.values()}


def _chosen(what: str) -> tuple[Study, list[Group]]:
    folder, _, choice = (what, "", "") if Path(what).is_dir() else what.partition(":")
    study = read_study(Path(folder))
    finished = [group for group in study.groups if group.results]
    exact = [group for group in finished if choice in _names_of(group)]
    groups = exact or [group for group in finished if choice in group.name]
    if not groups:
        raise ConfigError(
            f"{what} chooses no group with a finished run",
            f"the groups are {_names(study.groups)}",
            "name one of these behind the colon",
        )
    return study, groups


def _pair(study_a: Study, a: Group, study_b: Study, b: Group) -> list[Compared]:
    name = a.name if a.name == b.name else f"{a.name} / {b.name}"
    rows = []
    extra = [figure for figure in study_a.report.figures if figure in study_b.report.figures]
    for figure in [*FIGURES, "loss_last", *extra]:
        # Losses at equal tokens of two folders were read at two places.
        if study_a.ends != study_b.ends and figure.startswith("loss_at_equal"):
            continue
        first, second = study_a.values(a, figure), study_b.values(b, figure)
        if first and second:
            difference = differ(first, second)
            rows.append(Compared(name, figure, estimate(first), estimate(second), difference))
    return rows


def told(rows: Sequence[Compared], first: str, second: str) -> str:
    """The rows as text for people."""
    lines = [f"A = {first}", f"B = {second}"]
    for row in rows:
        if row.group not in lines:
            lines += ["", row.group]
        lines.append(f"  {row.figure:<24} {_said(row)}")
    return "\n".join(lines)


def _said(row: Compared) -> str:
    change, figures = row.difference, f"A {row.first.mean:.6g}  B {row.second.mean:.6g}"
    if change.is_real is None:
        return f"{figures}  B-A {change.difference:+.4g}: one seed cannot tell, run more"
    verdict = "differs" if change.is_real else "no more than noise"
    return (
        f"{figures}  B-A {change.difference:+.4g} +- {change.half_width:.2g}, "
        f"p = {change.p_value:.2g}: {verdict}"
    )
