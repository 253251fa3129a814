"""Curves of benchmarks/skipping.py: means over seeds, smoothed, read between their points."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

HOUR_SECONDS = 3600.0
SMOOTHED_OVER = 3
"""Judgements behind a loss: at a constant learning rate single ones stray."""


Curve = list[tuple[float, float]]
Variant = dict[str, Any]
"""What became of one variant: its `curve`, and `depths` by when and kind; over several seeds also their `curves`."""


def over_seeds(seeds: Iterable[Sequence[Variant]]) -> list[Variant]:
    """Each variant with the mean of its curves as far as all of them reach, and its losses at a depth all together.

    `curves` has the seeds' own; what some seed lacks so far counts the others.
    """
    named: dict[str, list[Variant]] = {}
    for variants in seeds:
        for variant in variants:
            named.setdefault(variant["name"], []).append(variant)
    return [_mean_variant(same) for same in named.values()]


def _mean_variant(same: Sequence[Variant]) -> Variant:
    curves = [variant["curve"] for variant in same]
    mean = [
        (points[0][0], sum(loss for _, loss in points) / len(points))
        for points in zip(*curves, strict=False)
    ]
    depths: dict[str, dict[str, Any]] = {}
    for when in same[0]["depths"]:
        there = [variant["depths"][when] for variant in same if when in variant["depths"]]
        depths[when] = {
            kind: [
                _mean_depth(alike) for alike in zip(*(depth[kind] for depth in there), strict=True)
            ]
            for kind in there[0]
        }
    return {**same[0], "curve": mean, "curves": curves, "depths": depths}


def _mean_depth(alike: Sequence[dict[str, Any]]) -> dict[str, Any]:
    losses = [loss for depth in alike for loss in depth["losses"]]
    mean = sum(losses) / len(losses)
    return {
        "keep": alike[0]["keep"],
        "losses": losses,
        "loss": mean,
        "loss_least": min(losses),
        "loss_most": max(losses),
        "perplexity": math.exp(mean),
    }


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
