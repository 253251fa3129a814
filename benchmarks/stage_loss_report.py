"""The figures of benchmarks/stage_loss.py as a page of Markdown and a drawing of the curves."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarmtrain.experiments.stage_loss import Point, loss_at, seconds_to_loss

PAPER_HOURS = {
    "checkpoint only": (558, 622, 634),
    "redundant computation": (420, 420, 420),
    "CheckFree": (368, 406, 563),
    "CheckFree+": (355, 368, 461),
}
"""Hours to the target loss at 5, 10 and 16 % (arXiv 2506.15461, 500M model)."""

COMPARED = (
    ("CheckFree", "checkpoint only"),
    ("CheckFree+", "checkpoint only"),
    ("CheckFree+", "redundant computation"),
    ("CheckFree+", "CheckFree"),
)
SWAPPED, FAULT_FREE_SWAPPED = "CheckFree+", "fault-free, swapped ends"
COLOURS = {
    "fault-free": "#000000",
    "redundant computation": "#999999",
    "snapshot, exact": "#1b7837",
    "stale snapshot": "#2166ac",
    "CheckFree": "#e08214",
    "CheckFree+": "#b2182b",
    "checkpoint only": "#762a83",
}
PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 380, 300, 46

Run = dict[str, Any]


def write_report(figures: dict[str, Any], folder: Path) -> None:
    """stage_loss.md and stage_loss.svg in `folder`."""
    text = "\n".join(_page(figures)) + "\n"
    (folder / "stage_loss.md").write_text(text, encoding="utf-8")
    (folder / "stage_loss.svg").write_text(_drawing(figures), encoding="utf-8")


def _page(figures: dict[str, Any]) -> list[str]:
    setting, costs, trained = figures["setting"], figures["costs"], figures["trained_loss"]
    expected = ", ".join(f"{count:.1f}" for count in figures["expected_failures"])
    shares = figures["targets"]
    return [
        "# Losing whole stages of a trained model",
        "",
        f"Llama of {setting['stages']} middle stages x 1 block, width {setting['width']}, "
        f"{figures['parameters']} parameters, bytes of Python's standard library, "
        f"{2 * setting['microbatch_size'] * setting['sequence_length']} tokens an iteration. Trained for "
        f"{setting['base_steps']} steps to a held-out loss of {trained['plain']:.3f} "
        f"({trained['swapped']:.3f} with swapped ends), then {setting['iterations']} iterations more, which stand for "
        f"{figures['horizon_hours']:.1f} hours at {costs['iteration_seconds']:.0f} s each: no other compression. "
        f"A whole stage state takes {costs['stage_bytes'] / costs['bytes_per_second']:.0f} s, two neighbours' "
        f"parameters {2 * costs['stage_bytes'] / 3 / costs['bytes_per_second']:.0f} s. "
        f"Expected losses of a stage in a run: {expected}. "
        f"Losses below are means of 5 evaluations, {setting['judge_steps']} steps apart. "
        f"{figures['cpu_seconds']:.0f} s of processor time.",
        "",
        f"Targets: {shares[0]:.4f} and {shares[1]:.4f}, the fault-free run's loss after half and four fifths of it.",
        "",
        *_time_table(figures),
        "",
        "## What a recovery does to the held-out loss",
        "",
        *_bump_table(figures),
        "",
        "## The paper's claim",
        "",
        *_claim_table(figures),
    ]


def _time_table(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"| rate | policy | hours to {figures['targets'][0]:.4f} | hours to {figures['targets'][1]:.4f} "
        f"| loss at {figures['horizon_hours']:.1f} h | above its own model without faults |",
        "|---|---|---|---|---|---|",
    ]
    for row, rate in enumerate(figures["setting"]["rates"]):
        lost = ", ".join(map(str, figures["failures"][row]))
        for policy in COLOURS:
            runs = _shown(figures, policy, rate)
            if not runs:
                continue
            cells = [_hours([run["hours_to_targets"][i] for run in runs]) for i in (0, 1)]
            if many := _many(figures, policy, rate):
                means = [_mean([run["hours_to_targets"][i] for run in many]) for i in (0, 1)]
                cells = [f"{c} (mean {m})" for c, m in zip(cells, means, strict=True)]
            last = ", ".join(f"{run['loss_at_horizon']:.4f}" for run in runs)
            own = _own(figures, policy)
            above = ", ".join(
                f"{run['loss_at_horizon'] - own['loss_at_horizon']:+.4f}" for run in runs
            )
            label = f"{rate:.0%} ({lost} losses)"
            lines.append(f"| {label} | {policy} | {cells[0]} | {cells[1]} | {last} | {above} |")
        lines.append(_own_targets(figures, rate))
    swapped = _own(figures, SWAPPED)
    cells = [_hours([hours]) for hours in swapped["hours_to_targets"]]
    lines.append(
        f"| 0 | {FAULT_FREE_SWAPPED} | {cells[0]} | {cells[1]} | {swapped['loss_at_horizon']:.4f} | |"
    )
    sequences = figures["setting"]["sequences"]
    return [
        *lines,
        "",
        f"Values by seed; `mean` is over {sequences} failure sequences, for policies that only roll back.",
    ]


def _own(figures: dict[str, Any], policy: str) -> Run:
    """The run without faults of the model that `policy` trains."""
    name = FAULT_FREE_SWAPPED if policy == SWAPPED else "fault-free"
    return _of(figures, name, 0.0)[0]


def _own_targets(figures: dict[str, Any], rate: float) -> str:
    """CheckFree+ against its own model: what failures cost it, without what swapping costs."""
    curve, hours = _points(_own(figures, SWAPPED)), figures["horizon_hours"]
    targets = [loss_at(curve, share * hours) for share in figures["target_shares"]]
    cells = [
        _hours([seconds_to_loss(_points(run), target) for run in _shown(figures, SWAPPED, rate)])
        for target in targets
    ]
    aims = " and ".join(f"{target:.4f}" for target in targets)
    return f"| {rate:.0%} | {SWAPPED}, hours to {aims} instead | {cells[0]} | {cells[1]} | | |"


def _points(run: Run) -> list[Point]:
    """The curve, with hours for seconds."""
    return [Point(hours, 0, loss) for hours, loss in run["curve"]]


def _bump_table(figures: dict[str, Any]) -> list[str]:
    last = figures["setting"]["stages"]
    found: dict[str, list[float]] = {}
    refused: dict[str, int] = {}
    for run in figures["runs"]:
        for recovery in run.get("recoveries", []):
            stages = recovery["stages"]
            how = recovery["how"]
            if how not in ("stale", "neighbours"):
                refused[run["policy"]] = refused.get(run["policy"], 0) + 1
                continue
            end = any(stage in (1, last) for stage in stages)
            kind = f"{run['policy']}, {'first or last stage' if end else 'stage between'}"
            found.setdefault(kind, []).append(recovery["loss_after"] - recovery["loss_before"])
    lines = ["| what | losses | median change | range |", "|---|---|---|---|"]
    lines += [
        f"| {kind} | {len(changes)} | {statistics.median(changes):+.4f} "
        f"| {min(changes):+.4f} to {max(changes):+.4f} |"
        for kind, changes in sorted(found.items())
    ]
    notes = [f"{policy} fell back to the checkpoint {n} times" for policy, n in refused.items()]
    return [*lines, "", "; ".join(notes) + "." if notes else "No average was refused."]


def _claim_table(figures: dict[str, Any]) -> list[str]:
    rates = figures["setting"]["rates"]
    lines = ["| hours of A / hours of B | paper, 5 / 10 / 16 % | here |", "|---|---|---|"]
    for one, other in COMPARED:
        pairs = zip(PAPER_HOURS[one], PAPER_HOURS[other], strict=True)
        paper = " / ".join(f"{a / b:.2f}" for a, b in pairs)
        here = " / ".join(_ratio(figures, one, other, rate) for rate in rates)
        lines.append(f"| {one} / {other} | {paper} | {here} |")
    return [
        *lines,
        "",
        "Of mean hours over seeds to the first target; `never`: A did not reach it within the run.",
    ]


def _ratio(figures: dict[str, Any], one: str, other: str, rate: float) -> str:
    hours = [[run["hours_to_targets"][0] for run in _shown(figures, p, rate)] for p in (one, other)]
    if any(value is None for value in hours[0]):
        return "never"
    if any(value is None for value in hours[1]):
        return "only A"
    return f"{statistics.mean(hours[0]) / statistics.mean(hours[1]):.2f}"


def _of(figures: dict[str, Any], policy: str, rate: float) -> list[Run]:
    return [run for run in figures["runs"] if (run["policy"], run["rate"]) == (policy, rate)]


def _shown(figures: dict[str, Any], policy: str, rate: float) -> list[Run]:
    """The runs of the seeds that all policies share; the fault-free run has no rate."""
    found = _of(figures, policy, 0.0 if policy == "fault-free" else rate)
    return [run for run in found if run["seed"] in figures["setting"]["seeds"]]


def _many(figures: dict[str, Any], policy: str, rate: float) -> list[Run]:
    found = _of(figures, policy, rate)
    return found if len(found) > len(figures["setting"]["seeds"]) else []


def _hours(values: Sequence[float | None]) -> str:
    return ", ".join("never" if value is None else f"{value:.1f}" for value in values)


def _mean(values: Sequence[float | None]) -> str:
    reached = [value for value in values if value is not None]
    if not reached:
        return "never"
    note = "" if len(reached) == len(values) else f" of {len(reached)}"
    return f"{statistics.mean(reached):.1f}{note}"


# ---- drawing --------------------------------------------------------------------------------------------------------


def _drawing(figures: dict[str, Any]) -> str:
    """One panel a rate: smoothed held-out loss over modelled hours, first seed."""
    rates = figures["setting"]["rates"]
    width = MARGIN + len(rates) * (PANEL_WIDTH + MARGIN)
    height = PANEL_HEIGHT + 3 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for panel, rate in enumerate(rates):
        parts += _panel(figures, rate, MARGIN + panel * (PANEL_WIDTH + MARGIN))
    for place, (policy, colour) in enumerate(COLOURS.items()):
        x, y = MARGIN + place * 165, PANEL_HEIGHT + 2.4 * MARGIN
        parts.append(f'<rect x="{x}" y="{y - 8:.0f}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y:.0f}">{policy}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(figures: dict[str, Any], rate: float, left: float) -> list[str]:
    seed = figures["setting"]["seeds"][0]
    curves = {
        policy: [run["curve"] for run in _shown(figures, policy, rate) if run["seed"] == seed]
        for policy in COLOURS
    }
    shown = [curve for found in curves.values() for curve in found if curve]
    hours = figures["horizon_hours"]
    losses = [loss for curve in shown for at, loss in curve if at <= hours]
    low, high = min(losses), max(losses)
    span = max(high - low, 1e-6)

    def place(at: float, loss: float) -> str:
        x = left + at / hours * PANEL_WIDTH
        return f"{x:.1f},{MARGIN + (high - loss) / span * PANEL_HEIGHT:.1f}"

    bottom = MARGIN + PANEL_HEIGHT
    parts = [
        f'<rect x="{left}" y="{MARGIN}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" fill="none" stroke="#cccccc"/>',
        f'<text x="{left}" y="{MARGIN - 10}" font-weight="bold">{rate:.0%} a stage and hour</text>',
        f'<text x="{left - 4}" y="{MARGIN + 4}" text-anchor="end">{high:.2f}</text>',
        f'<text x="{left - 4}" y="{bottom}" text-anchor="end">{low:.2f}</text>',
        f'<text x="{left}" y="{bottom + 14}">0</text>',
        f'<text x="{left + PANEL_WIDTH}" y="{bottom + 14}" text-anchor="end">{hours:.1f} h</text>',
    ]
    for policy, found in curves.items():
        for curve in found:
            line = " ".join(place(at, loss) for at, loss in curve if at <= hours)
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{COLOURS[policy]}" stroke-width="1.5"/>'
            )
    return parts
