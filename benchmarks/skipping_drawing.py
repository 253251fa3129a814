"""The picture of benchmarks/skipping.py: three panels of curves as SVG."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.skipping_curves import HOUR_SECONDS, Curve, Variant, in_seconds, in_steps

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


def drawing(figures: dict[str, Any]) -> str:
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
