"""Groups of bars as an SVG picture."""

from collections.abc import Mapping, Sequence

BAR, SPACE, HEIGHT, MARGIN = 14, 46, 260, 60
COLOURS = ("#c9c9c9", "#8fb3d9", "#2b6cb0", "#e08214", "#b2182b", "#1b7837")

Group = tuple[str, Mapping[str, float]]
"""Its label, lines parted by a line break, and its bars by name."""


def bars(title: str, groups: Sequence[Group], level: float | None = None) -> str:
    """All groups side by side on one scale from zero; `level` draws a line across."""
    names = list(dict.fromkeys(name for _, values in groups for name in values))
    most = max((value for _, values in groups for value in values.values()), default=1.0)
    widths = [len(values) * BAR + SPACE for _, values in groups]
    width, base = max(2 * MARGIN + sum(widths), 150 * len(names)), MARGIN + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {base + 80}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{base + 80}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="24" font-weight="bold">{title}</text>',
    ]
    left = MARGIN
    for (label, values), wide in zip(groups, widths, strict=True):
        for place, (name, value) in enumerate(values.items()):
            x, top = left + place * BAR, base - value / most * HEIGHT
            colour = COLOURS[names.index(name) % len(COLOURS)]
            parts.append(
                f'<rect x="{x}" y="{top:.1f}" width="{BAR - 2}" height="{base - top:.1f}" fill="{colour}"/>'
            )
            parts.append(
                f'<text x="{x + 9}" y="{top - 4:.1f}" font-size="8" transform="rotate(-60 {x + 9} {top - 4:.1f})">'
                f"{value:.3g}</text>"
            )
        for line, text in enumerate(label.split("\n")):
            parts.append(f'<text x="{left}" y="{base + 14 + 13 * line}">{text}</text>')
        left += wide
    if level is not None:
        y = base - level / most * HEIGHT
        parts.append(
            f'<line x1="{MARGIN - 10}" x2="{left}" y1="{y:.1f}" y2="{y:.1f}" stroke="#1a1a1a"/>'
        )
    for place, name in enumerate(names):
        x, colour = MARGIN + place * 140, COLOURS[place % len(COLOURS)]
        parts.append(f'<rect x="{x}" y="{base + 56}" width="14" height="6" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{base + 63}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
