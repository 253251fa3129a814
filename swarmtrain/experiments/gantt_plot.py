"""The Gantt chart of a report: what each machine's lane did in some steps, one chart a group."""

from collections.abc import Sequence
from typing import Any

from swarmtrain.experiments.gantt import DRAWN, Bar

MOST_CHARTS = 4
COLOURS = dict(zip(DRAWN, ("#4c78a8", "#f58518", "#54a24b", "#b8b8b8"), strict=True))
HEIGHTS = {"reduce": 0.3}
"""Beside the lane: other tasks may run meanwhile."""


def gantt(figure: Any, charts: Sequence[tuple[str, Sequence[Bar]]]) -> None:
    """One row a machine, one colour a kind of task; charts share the scale of their seconds."""
    panels = figure.subplots(len(charts), 1, squeeze=False, sharex=True)[:, 0]
    for panel, (name, bars) in zip(panels, charts, strict=True):
        machines = sorted({bar.machine for bar in bars}, reverse=True)
        for place, machine in enumerate(machines):
            for kind in DRAWN:
                mine = [bar for bar in bars if (bar.machine, bar.kind) == (machine, kind)]
                height = HEIGHTS.get(kind, 0.8)
                panel.broken_barh(
                    [(bar.start_seconds, bar.seconds) for bar in mine],
                    (place - height / 2, height),
                    facecolors=COLOURS[kind],
                    edgecolors="white",
                    linewidth=0.2,
                    label=kind if place == 0 else None,
                    zorder=1 if kind == "reduce" else 2,
                )
        steps = sorted({bar.step for bar in bars})
        panel.set_yticks(range(len(machines)), machines)
        panel.set_title(f"{name}, steps {steps[0]} to {steps[-1]}", fontsize=8)
    panels[-1].set_xlabel("seconds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
