"""The figures of benchmarks/skipping.py as a page of Markdown and a drawing of the curves."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

HOUR_SECONDS = 3600.0
SMOOTHED_OVER = 3
"""Judgements behind a loss: at a constant learning rate single ones stray."""

COLOURS = {
    "full": "#000000",
    "25 %": "#2166ac",
    "33 %": "#1b7837",
    "50 %": "#b2182b",
    "33 % with ends kept": "#e08214",
    "33 % planned": "#7fbf7b",
    "50 % planned": "#ef8a62",
}
PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 380, 300, 50

Curve = list[tuple[float, float]]
Variant = dict[str, Any]


def write_report(figures: dict[str, Any], folder: Path) -> None:
    """skipping.md and skipping.svg in `folder`; what is not trained yet is left out."""
    text = "\n".join(_page(figures)) + "\n"
    (folder / "skipping.md").write_text(text, encoding="utf-8")
    (folder / "skipping.svg").write_text(_drawing(figures), encoding="utf-8")


def smoothed(curve: Sequence[Sequence[float]]) -> Curve:
    """Each loss as the mean of the last few."""
    losses = [loss for _, loss in curve]
    return [
        (at, sum(recent) / len(recent))
        for end, (at, _) in enumerate(curve, start=1)
        if (recent := losses[max(0, end - SMOOTHED_OVER) : end])
    ]


def loss_at(curve: Curve, place: float) -> float | None:
    """Between points by straight lines; None where the curve does not reach."""
    for (start, before), (end, after) in pairwise(curve):
        if start <= place <= end:
            return before + (after - before) * (place - start) / (end - start)
    return None


def first_at(curve: Curve, loss: float) -> float | None:
    """Where the curve first comes down to `loss`; None if it never does."""
    for (start, before), (end, after) in pairwise(curve):
        if after <= loss:
            share = (before - loss) / (before - after) if before > after else 0.0
            return start + max(0.0, share) * (end - start)
    return None


def in_steps(variant: Variant) -> Curve:
    return smoothed(variant["curve"])


def in_seconds(figures: dict[str, Any], variant: Variant) -> Curve:
    seconds = figures["step_seconds"][variant["name"]]
    return [(step * seconds, loss) for step, loss in in_steps(variant)]


def _page(figures: dict[str, Any]) -> list[str]:
    setting = figures["setting"]
    return [
        "# Training with stages left out",
        "",
        f"Llama of {setting['stages']} middle stages x 1 block, width {setting['width']}, "
        f"{figures['parameters']} parameters, bytes of Python's standard library, "
        f"{setting['microbatches']} microbatches of {setting['microbatch_size']} x "
        f"{setting['sequence_length']} tokens a step, AdamW at a constant {setting['learning_rate']}, one seed. "
        "`visits = seeded` but where it says planned. Losses are held-out nats per token at full depth, means of "
        f"{SMOOTHED_OVER} judgements "
        f"{setting['judge_steps']} steps apart. {figures['cpu_seconds']:.0f} s of processor time.",
        "",
        "## At equal tokens",
        "",
        *_token_table(figures),
        "",
        "## At equal virtual time on the 12-region network",
        "",
        *_time_table(figures),
        "",
        "## With stages left out of the trained model",
        "",
        *_depth_table(figures),
        "",
        "## The papers' claims",
        "",
        *_claim_table(figures),
        "",
        "Perplexity changes are against the same model with all stages, any stages left out, at equal tokens. "
        f"Seconds of a step are those of the planner's execution model with {figures['costs']['replicas']} replicas a "
        "stage, dealt over the regions in turn: with planned routes (all comparisons in time), and with visitors "
        "dealt to replicas in turn.",
    ]


def _token_table(figures: dict[str, Any]) -> list[str]:
    setting, full = figures["setting"], figures["variants"][0]
    steps = setting["steps"]
    tokens = steps * setting["step_tokens"]
    lines = [
        f"| left out | stages visited | loss after {tokens / 1e6:.2f}M tokens | above full | tokens to the same loss "
        "as full's there | seconds a step | to full | dealt in turn |",
        "|---|---|---|---|---|---|---|---|",
    ]
    target = loss_at(in_steps(full), steps)
    for variant in figures["variants"]:
        loss = loss_at(in_steps(variant), steps)
        seconds = figures["step_seconds"][variant["name"]]
        ratio = seconds / figures["step_seconds"][full["name"]]
        reached = None if target is None else first_at(in_steps(variant), target)
        lines.append(
            f"| {variant['name']} | {variant['visited']} of {setting['stages']} | {_loss(loss)} "
            f"| {_difference(loss, target)} | {_millions(reached, setting['step_tokens'])} | {seconds:.1f} "
            f"| {ratio:.2f} | {figures['dealt_seconds'][variant['name']]:.1f} |"
        )
    return lines


def _time_table(figures: dict[str, Any]) -> list[str]:
    setting, full = figures["setting"], figures["variants"][0]
    whole = in_seconds(figures, full)
    end = whole[-1][0]
    # Losses at the start of training are not worth comparing: halves and the whole of the full pipeline's time.
    places = [end * share for share in (0.25, 0.5, 1.0)]
    hours = [f"{place / HOUR_SECONDS:.1f} h" for place in places]
    lines = [
        "| left out | "
        + " | ".join(f"loss at {h} (to full)" for h in hours)
        + " | hours to full's last loss |",
        "|---|" + "---|" * (len(places) + 1),
    ]
    for variant in figures["variants"]:
        curve = in_seconds(figures, variant)
        cells = []
        for place in places:
            loss = loss_at(curve, place)
            cells.append(f"{_loss(loss)} ({_difference(loss, loss_at(whole, place))})")
        reached = first_at(curve, whole[-1][1])
        shown = "not reached" if reached is None else f"{reached / HOUR_SECONDS:.1f}"
        lines.append(f"| {variant['name']} | " + " | ".join(cells) + f" | {shown} |")
    return [
        *lines,
        "",
        f"Full has {full['curve'][-1][0] * setting['step_tokens'] / 1e6:.2f}M tokens by then. `-`: not trained that "
        "long. The seconds of a step are the first table's.",
    ]


def _depth_table(figures: dict[str, Any]) -> list[str]:
    lines = [
        "| left out in training | measured at | stages left out of | "
        + " | ".join(f"perplexity with {share:.0%} (to own full)" for share in _shares(figures))
        + " |",
        "|---|---|---|" + "---|" * len(_shares(figures)),
    ]
    for variant in figures["variants"]:
        for when, kinds in variant["depths"].items():
            for kind, depths in kinds.items():
                whole = depths[0]["loss"]
                cells = [_depth_cell(depth, whole) for depth in depths]
                what = "any" if kind == "any" else "all but the ends"
                lines.append(f"| {variant['name']} | {when} | {what} | " + " | ".join(cells) + " |")
    choices = figures["setting"]["choices"]
    return [
        *lines,
        "",
        f"exp of the mean loss over {choices} choices of the stages to leave out, the same for every model; in "
        "brackets the change against all stages and the range over the choices.",
    ]


def _depth_cell(depth: dict[str, Any], whole: float) -> str:
    if len(depth["losses"]) == 1:
        return f"{depth['perplexity']:.2f}"
    least, most = math.exp(depth["loss_least"]), math.exp(depth["loss_most"])
    return f"{depth['perplexity']:.2f} ({_change(depth, whole)}; {least:.2f} to {most:.2f})"


def _change(depth: dict[str, Any], whole: float) -> str:
    """Of the perplexity, against a loss."""
    return f"{math.expm1(depth['loss'] - whole):+.1%}"


def _claim_table(figures: dict[str, Any]) -> list[str]:
    """What SkipPipe says of itself (arXiv 2502.19913, abstracts) beside what came out here."""
    named = {v["name"]: v for v in figures["variants"] if "equal tokens" in v["depths"]}
    if not named:
        return ["Nothing is trained yet."]
    seconds, full = figures["step_seconds"], figures["variants"][0]
    lines = ["| claim | " + " | ".join(named) + " |", "|---|" + "---|" * len(named)]
    times = [f"{seconds[name] / seconds[full['name']] - 1:+.0%}" for name in named]
    rows = {"iteration time up to 55 % shorter": times}
    for claim, share in (("7 % perplexity at half depth", 0.5), ("2 % at 75 %", 0.75)):
        depths = [variant["depths"]["equal tokens"]["any"] for variant in named.values()]
        rows[claim] = [_change(_at(depth, share), _at(depth, 1.0)["loss"]) for depth in depths]
    rows["perplexity at full depth, against full's, at equal tokens"] = [
        _change(
            _at(variant["depths"]["equal tokens"]["any"], 1.0),
            _at(full["depths"]["equal tokens"]["any"], 1.0)["loss"],
        )
        for variant in named.values()
    ]
    return [*lines, *(f"| {claim} | " + " | ".join(cells) + " |" for claim, cells in rows.items())]


def _at(depths: Sequence[dict[str, Any]], share: float) -> dict[str, Any]:
    return next(depth for depth in depths if depth["keep"] == share)


def _shares(figures: dict[str, Any]) -> list[float]:
    return [float(share) for share in figures["setting"]["keep"]]


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def _difference(loss: float | None, other: float | None) -> str:
    return "-" if loss is None or other is None else f"{loss - other:+.4f}"


def _millions(steps: float | None, step_tokens: int) -> str:
    return "not reached" if steps is None else f"{steps * step_tokens / 1e6:.2f}M"


# ---- drawing --------------------------------------------------------------------------------------------------------


def _drawing(figures: dict[str, Any]) -> str:
    """Loss over tokens, loss over modelled hours, and perplexity over the share of the depth that is kept."""
    step_tokens = figures["setting"]["step_tokens"]
    panels = (
        ("loss over million tokens", lambda v: _scaled(in_steps(v), step_tokens / 1e6), True),
        (
            "loss over modelled hours",
            lambda v: _scaled(in_seconds(figures, v), 1 / HOUR_SECONDS),
            True,
        ),
        ("perplexity over % of the stages kept", _by_depth, False),
    )
    width = MARGIN + len(panels) * (PANEL_WIDTH + MARGIN)
    height = PANEL_HEIGHT + 3 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for place, (title, curve_of, late) in enumerate(panels):
        left = MARGIN + place * (PANEL_WIDTH + MARGIN)
        parts += _panel(figures["variants"], curve_of, left, title, late)
    for place, (name, colour) in enumerate(COLOURS.items()):
        x, y = MARGIN + place * 165, PANEL_HEIGHT + 2.4 * MARGIN
        parts.append(f'<rect x="{x}" y="{y - 8:.0f}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y:.0f}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _scaled(curve: Curve, factor: float) -> Curve:
    return [(at * factor, loss) for at, loss in curve]


def _by_depth(variant: Variant) -> Curve:
    """At equal tokens, any stages left out."""
    depths = variant["depths"].get("equal tokens", {}).get("any", [])
    return sorted((100.0 * depth["keep"], depth["perplexity"]) for depth in depths)


def _panel(
    variants: Sequence[Variant],
    curve_of: Callable[[Variant], Curve],
    left: float,
    title: str,
    late: bool,
) -> list[str]:
    """One set of axes; `late` leaves the first fifth out of the height, where losses fall too far to see the rest."""
    curves = {variant["name"]: curve_of(variant) for variant in variants}
    points = [point for curve in curves.values() for point in curve]
    bottom = MARGIN + PANEL_HEIGHT
    parts = [
        f'<rect x="{left}" y="{MARGIN}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" fill="none" stroke="#cccccc"/>',
        f'<text x="{left}" y="{MARGIN - 10}" font-weight="bold">{title}</text>',
    ]
    if len(points) < 2:
        return parts
    first, last = (0.0 if late else min(at for at, _ in points)), max(at for at, _ in points)
    heights = [loss for at, loss in points if not late or at >= first + 0.2 * (last - first)]
    low, high = min(heights), max(heights)
    span_x, span_y = max(last - first, 1e-9), max(high - low, 1e-9)
    parts += [
        f'<text x="{left - 4}" y="{MARGIN + 4}" text-anchor="end">{high:.2f}</text>',
        f'<text x="{left - 4}" y="{bottom}" text-anchor="end">{low:.2f}</text>',
        f'<text x="{left}" y="{bottom + 14}">{first:.3g}</text>',
        f'<text x="{left + PANEL_WIDTH}" y="{bottom + 14}" text-anchor="end">{last:.3g}</text>',
    ]
    for name, curve in curves.items():
        line = " ".join(
            f"{left + (at - first) / span_x * PANEL_WIDTH:.1f},"
            f"{MARGIN + (high - loss) / span_y * PANEL_HEIGHT:.1f}"
            for at, loss in curve
            if loss <= high
        )
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.5"/>'
        )
    return parts
