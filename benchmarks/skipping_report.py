"""The figures of benchmarks/skipping.py as a page of Markdown."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.skipping_curves import (
    HOUR_SECONDS,
    SMOOTHED_OVER,
    Variant,
    first_at,
    in_seconds,
    in_steps,
    loss_at,
    over_seeds,
    smoothed,
)
from benchmarks.skipping_drawing import drawing


def write_report(figures: dict[str, Any], folder: Path) -> None:
    """skipping.md and skipping.svg in `folder`; what is not trained yet is left out."""
    figures = {**figures, "variants": over_seeds(figures["seeds"].values())}
    text = "\n".join(_page(figures)) + "\n"
    (folder / "skipping.md").write_text(text, encoding="utf-8")
    (folder / "skipping.svg").write_text(drawing(figures), encoding="utf-8")


def _page(figures: dict[str, Any]) -> list[str]:
    setting = figures["setting"]
    return [
        "# Training with stages left out",
        "",
        f"Llama of {setting['stages']} middle stages x 1 block, width {setting['width']}, "
        f"{figures['parameters']} parameters, bytes of Python's standard library, "
        f"{setting['microbatches']} microbatches of {setting['microbatch_size']} x "
        f"{setting['sequence_length']} tokens a step, AdamW at a constant {setting['learning_rate']}, seeds "
        f"{', '.join(figures['seeds'])}. "
        "`visits = seeded` but where it says planned. Losses are held-out nats per token at full depth, means of "
        f"{SMOOTHED_OVER} judgements {setting['judge_steps']} steps apart and over the seeds; differences to full are "
        f"of equal seeds, with half their range. {figures['cpu_seconds']:.0f} s of processor time.",
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
            f"| {_above(variant, full, steps)} | {_millions(reached, setting['step_tokens'])} | {seconds:.1f} "
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
            seconds = figures["step_seconds"]
            both = place / seconds[variant["name"]], place / seconds[full["name"]]
            cells.append(f"{_loss(loss_at(curve, place))} ({_above(variant, full, *both)})")
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
        f"exp of the mean loss over {choices} choices of the stages to leave out, the same for every model, and over "
        "the seeds; in brackets the change against all stages and the range over choices and seeds.",
    ]


def _depth_cell(depth: dict[str, Any], whole: float) -> str:
    if depth["keep"] == 1.0:
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


def _above(variant: Variant, full: Variant, steps: float, full_steps: float | None = None) -> str:
    """How much higher the loss is after `steps` than full's after `full_steps`, seed by seed: mean, half the range."""
    pairs = [
        (
            loss_at(smoothed(mine), steps),
            loss_at(smoothed(whole), steps if full_steps is None else full_steps),
        )
        for mine, whole in zip(variant["curves"], full["curves"], strict=False)
    ]
    found = [mine - whole for mine, whole in pairs if mine is not None and whole is not None]
    if not found:
        return "-"
    spread = f" ± {(max(found) - min(found)) / 2:.4f}" if len(found) > 1 else ""
    return f"{sum(found) / len(found):+.4f}{spread}"


def _millions(steps: float | None, step_tokens: int) -> str:
    return "not reached" if steps is None else f"{steps * step_tokens / 1e6:.2f}M"
