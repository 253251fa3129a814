"""The plots of a report as SVG text, by matplotlib; same results, same bytes. Needs the extra `report`."""

import io
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from swarmtrain.experiments.curves import Axis, Point, smoothed
from swarmtrain.experiments.gantt_plot import MOST_CHARTS, gantt
from swarmtrain.experiments.noise import missing
from swarmtrain.experiments.results import Group, Study

LABELS: dict[Axis, tuple[str, float]] = {
    "tokens": ("tokens", 1.0),
    "seconds": ("seconds", 1.0),
    "bytes": ("GB sent", 1e9),
}
BINS = 40
"""Spans of time that throughput is a mean over."""

MOST_PANELS = 6
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "swarmtrain",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.parse_math": False,  # labels are people's words, and may have dollars
}


def plots_of(study: Study) -> dict[str, str]:
    """By file name. Raises SwarmError when matplotlib or scipy is missing."""
    found = {"figures.svg": _drawn(lambda figure: _bars(figure, study), (9, 3.2))}
    if study.has_curves:
        found["curves.svg"] = _drawn(lambda figure: _curves(figure, study), (11, 3.6))
        found["throughput.svg"] = _drawn(lambda figure: _throughput(figure, study), (9, 3.2))
    placed = [group for group in study.groups if _traffic(group)]
    if placed:
        shown = placed[:MOST_PANELS]
        size = (min(len(shown), 3) * 4, math.ceil(len(shown) / 3) * 4)
        found["traffic.svg"] = _drawn(lambda figure: _topology(figure, shown), size)
    traced = [(g.name, g.results[0].bars) for g in study.groups if g.results and g.results[0].bars]
    if traced:
        rows = max(len({bar.machine for bar in bars}) for _, bars in traced[:MOST_CHARTS])
        inches = (11.0, min(len(traced), MOST_CHARTS) * (0.9 + 0.22 * rows))
        found["gantt.svg"] = _drawn(lambda figure: gantt(figure, traced[:MOST_CHARTS]), inches)
    return dict(sorted(found.items()))


def _drawn(draw: Callable[[Any], None], inches: tuple[float, float]) -> str:
    """A figure as SVG text without a date, with ids that follow from its content."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever this machine prefers
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "swarmtrain"})
    return text.getvalue()


def _mean_curve(group: Group, window_steps: int) -> list[tuple[Point, float]]:
    """Of each step that all runs took the mean: where they were, and their smoothed loss."""
    by_step: dict[int, list[tuple[Point, float]]] = {}
    for result in group.results:
        losses = smoothed(result.points, window_steps)
        for point, loss in zip(result.points, losses, strict=True):
            by_step.setdefault(point.step, []).append((point, loss))
    curve = []
    for step, found in sorted(by_step.items()):
        if len(found) < len(group.results):
            continue
        mean = Point(
            step,
            statistics.fmean(point.seconds for point, _ in found),
            round(statistics.fmean(point.tokens for point, _ in found)),
            round(statistics.fmean(point.bytes for point, _ in found)),
            statistics.fmean(point.loss for point, _ in found),
        )
        curve.append((mean, statistics.fmean(loss for _, loss in found)))
    return curve


def _curves(figure: Any, study: Study) -> None:
    panels = figure.subplots(1, 3, sharey=True)
    curves = [(group.name, _mean_curve(group, study.report.window_steps)) for group in study.groups]
    for panel, (axis, (label, unit)) in zip(panels, LABELS.items(), strict=True):
        for name, curve in curves:
            places = [getattr(point, axis) / unit for point, _ in curve]
            panel.plot(places, [loss for _, loss in curve], label=name, linewidth=1.2)
        if study.report.target_loss is not None:
            panel.axhline(study.report.target_loss, color="grey", linewidth=0.6, linestyle="--")
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("loss, nats a token")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _throughput(figure: Any, study: Study) -> None:
    panel = figure.subplots()
    for group in study.groups:
        if not group.results or any(len(result.points) < 2 for result in group.results):
            continue
        rates = [_rates(result.points) for result in group.results]
        times = [statistics.fmean(column) for column in zip(*(t for t, _ in rates), strict=True)]
        means = [statistics.fmean(column) for column in zip(*(r for _, r in rates), strict=True)]
        panel.plot(times, means, label=group.name, linewidth=1.2)
    panel.set(xlabel="seconds", ylabel="tokens/s")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    if panel.lines:
        figure.legend(loc="outside lower center", ncols=3)


def _rates(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """The middle of each of BINS equal spans, and tokens a second in it; a step's tokens come evenly over the step."""
    end = points[-1].seconds or 1.0
    width, tokens = end / BINS, [0.0] * BINS
    begin_seconds = begin_tokens = 0.0
    for point in points:
        took, gained = point.seconds - begin_seconds, point.tokens - begin_tokens
        first = min(int(begin_seconds / width), BINS - 1)
        last = min(int(point.seconds / width), BINS - 1)
        for place in range(first, last + 1):
            shared = min(point.seconds, (place + 1) * width) - max(begin_seconds, place * width)
            tokens[place] += gained * (shared / took if took > 0 else 1.0 / (last - first + 1))
        begin_seconds, begin_tokens = point.seconds, float(point.tokens)
    return [(place + 0.5) * width for place in range(BINS)], [count / width for count in tokens]


def _bars(figure: Any, study: Study) -> None:
    """T, the steady step and what else the report names, with intervals, as the table has them."""
    wanted = ["T", "steady_step_seconds", "tokens_per_second", *study.report.figures]
    wanted = [
        f for f in dict.fromkeys(wanted) if any(study.sample(g, f).by_seed for g in study.groups)
    ]
    figures = wanted[:4]
    panels = figure.subplots(1, len(figures), squeeze=False, sharey=True)[0] if figures else []
    for panel, name in zip(panels, figures, strict=True):
        for place, group in enumerate(reversed(study.groups)):
            if found := study.estimate(group, name):
                panel.barh(place, found.mean, xerr=found.half_width or 0.0, color="#4c78a8")
            else:
                panel.text(0.0, place, f" {study.reached(group, name)}", va="center", fontsize=7)
        panel.set_xlabel(name)
        names = [group.name for group in reversed(study.groups)]
        panel.set_yticks(range(len(names)), names)


def _traffic(group: Group) -> dict[tuple[str, str], float]:
    """Bytes between pairs of regions in a mean run of the group."""
    total: dict[tuple[str, str], float] = {}
    for result in group.results:
        for pair, sent_bytes in result.summary.get("bytes_by_regions", {}).items():
            first, _, second = pair.partition(" > ")
            ends = (min(first, second), max(first, second))
            total[ends] = total.get(ends, 0.0) + sent_bytes / len(group.results)
    return total


def _topology(figure: Any, groups: Sequence[Group]) -> None:
    """Regions on a circle, lines as wide as what they carried; a region's own traffic is its disc."""
    columns = min(len(groups), 3)
    panels = list(figure.subplots(math.ceil(len(groups) / columns), columns, squeeze=False).flat)
    most = max(max(_traffic(group).values()) for group in groups)
    for panel in panels:
        panel.set_axis_off()
    for panel, group in zip(panels, groups, strict=False):
        traffic = _traffic(group)
        regions = sorted({region for pair in traffic for region in pair})
        angles = {r: 2 * math.pi * n / len(regions) for n, r in enumerate(regions)}
        at = {region: (math.cos(angle), math.sin(angle)) for region, angle in angles.items()}
        for (first, second), sent_bytes in traffic.items():
            share = sent_bytes / most
            if first == second:
                panel.scatter(*at[first], s=20 + 400 * share, color="#4c78a8", alpha=0.5)
            else:
                ends = zip(at[first], at[second], strict=True)
                panel.plot(*ends, linewidth=0.3 + 6 * share, color="#4c78a8", alpha=0.6)
        for region, (x, y) in at.items():
            panel.text(1.15 * x, 1.15 * y, region, ha="center", va="center", fontsize=7)
        panel.set(xlim=(-1.5, 1.5), ylim=(-1.4, 1.4), aspect="equal")
        panel.set_title(f"{group.name}: {sum(traffic.values()) / 1e9:.3g} GB", fontsize=8)
