"""deploy/: Prometheus and Grafana ask for metrics that there are, under their labels."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.monitor.figures import FIGURES

DEPLOY = Path(__file__).parents[2] / "deploy"
BOARD = json.loads((DEPLOY / "grafana" / "swarmtrain.json").read_text())
PANELS = BOARD["panels"]
SAMPLES = {f"{f.name}_total" if f.kind == "counter" else f.name: f for f in FIGURES.values()}
FROM_PROMETHEUS = {"instance", "job"}


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_every_query_names_metrics_and_labels_that_exist(panel: dict[str, Any]):
    assert panel["targets"]
    for target in panel["targets"]:
        names = set(re.findall(r"swarmtrain_\w+", target["expr"]))
        assert names and names <= SAMPLES.keys(), names - SAMPLES.keys()
        labels = {label for name in names for label in SAMPLES[name].labels} | FROM_PROMETHEUS
        asked = re.findall(r"(\w+)=", target["expr"]) + re.findall(r"by \((\w+)\)", target["expr"])
        shown = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        assert set(asked) | set(shown) <= labels
        counters = {name for name in names if name.endswith("_total")}
        assert (
            not counters or "rate(" in target["expr"] or panel["title"] == "Losses and recoveries"
        )


def test_panels_do_not_overlap_and_have_numbers_of_their_own():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def test_prometheus_reads_the_default_port_of_the_dashboard():
    from swarmtrain.coordinator.service import DEFAULT_DASHBOARD

    assert f'"{DEFAULT_DASHBOARD}"' in (DEPLOY / "prometheus" / "prometheus.yml").read_text()
