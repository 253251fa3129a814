"""Whether two results differ by more than noise: a test over seeds, figure by figure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from swarmtrain.core.errors import ConfigError
from swarmtrain.experiments.noise import Difference, Estimate, differ
from swarmtrain.experiments.results import AXES, FIGURES, Group, Study, read_study

READING = ("target_loss", "warm_steps", "window_steps")
"""Keys of `[report]` that change what is read off a curve."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one pair of groups; an estimate is None where not all `reached` it, and then nothing is judged."""

    group: str
    figure: str
    runs: tuple[str, str]
    reached: tuple[str, str]
    first: Estimate | None
    second: Estimate | None
    difference: Difference | None
    note: str = ""
    """Where the two folders were read otherwise than their own reports are."""

    @property
    def is_real(self) -> bool | None:
        return self.difference.is_real if self.difference else None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "differs": self.is_real}


def compared(first: str, second: str) -> list[Compared]:
    """Each of `first` and `second` is DIR, or DIR:CHOICE: groups of that choice, or with CHOICE in their name.

    One group each are compared with each other, several where they agree on what varies among them. Curves of both
    are read by the first one's `[report]`, and as far as all runs of both got. Raises ConfigError when nothing can be.
    """
    (study_a, groups_a), (study_b, groups_b) = _chosen(first), _chosen(second)
    study_a, study_b, note = _read_alike(study_a, study_b)
    pairs = _pairs(groups_a, groups_b)
    rows = [row for a, b in pairs for row in _pair(study_a, a, study_b, b, note)]
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


def _read_alike(a: Study, b: Study) -> tuple[Study, Study, str]:
    """Both with the settings of `a` and the ends that both reached, and a note where that changes something."""
    others = [key for key in READING if getattr(a.report, key) != getattr(b.report, key)]
    notes = []
    if others:
        said = ", ".join(f"{key} = {getattr(a.report, key)}" for key in others)
        notes.append(f"B is read with A's {said}")
    if a.ends != b.ends:
        notes.append(
            "losses at equal tokens, time and bytes are read at what all runs of both reached"
        )
    ends = {
        axis: min(a.ends[axis], b.ends[axis]) for axis in AXES if axis in a.ends and axis in b.ends
    }
    report = b.report.model_copy(update={key: getattr(a.report, key) for key in READING})
    return replace(a, ends=ends), replace(b, report=report, ends=ends), "; ".join(notes)


def _pairs(groups_a: Sequence[Group], groups_b: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Groups with equal labels on the axes that vary on either side; the other axes are what is compared."""
    varying = sorted(
        {
            axis
            for groups in (groups_a, groups_b)
            for axis in groups[0].labels
            if len({group.labels[axis] for group in groups}) > 1
        }
    )

    def key(group: Group) -> tuple[str | None, ...]:
        return tuple(group.labels.get(axis) for axis in varying)

    by_key = {key(group): group for group in groups_b}
    return [(group, by_key[key(group)]) for group in groups_a if key(group) in by_key]


def _pair(study_a: Study, a: Group, study_b: Study, b: Group, note: str) -> list[Compared]:
    name = a.name if a.name == b.name else f"{a.name} / {b.name}"
    rows = []
    extra = [figure for figure in study_a.report.figures if figure in study_b.report.figures]
    for figure in dict.fromkeys([*FIGURES, "loss_last", *extra]):
        samples = study_a.sample(a, figure), study_b.sample(b, figure)
        if not any(sample.by_seed for sample in samples):
            continue
        first, second = study_a.estimate(a, figure), study_b.estimate(b, figure)
        difference = differ(*samples) if first and second else None
        reached = study_a.reached(a, figure), study_b.reached(b, figure)
        runs = a.runs, b.runs
        rows.append(Compared(name, figure, runs, reached, first, second, difference, note))
    return rows


def told(rows: Sequence[Compared], first: str, second: str) -> str:
    """The rows as text for people."""
    lines = [f"A = {first}", f"B = {second}"]
    lines += [row.note for row in rows[:1] if row.note]
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines += ["", f"{group}: runs of A {row.runs[0]}, of B {row.runs[1]}"]
        lines.append(f"  {row.figure:<24} {_said(row)}")
    return "\n".join(lines)


def _said(row: Compared) -> str:
    means = [format(found.mean, ".6g") if found else "-" for found in (row.first, row.second)]
    figures, change = f"A {means[0]}  B {means[1]}", row.difference
    if change is None:
        return f"{figures}  runs that reached it: A {row.reached[0]}, B {row.reached[1]}"
    if change.is_real is None:
        return f"{figures}  B-A {change.difference:+.4g}: one seed cannot tell, run more"
    verdict = "differs" if change.is_real else "may be noise" if change.half_width else "equal"
    return (
        f"{figures}  B-A {change.difference:+.4g} +- {change.half_width:.2g}, "
        f"p = {change.p_value:.2g} ({change.test}): {verdict}"
    )
