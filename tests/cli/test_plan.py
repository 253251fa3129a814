"""`swarmtrain plan`: output of both kinds, refusals, Ctrl+C, and no torch."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.cli.app import main
from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.reading import read_instance
from swarmtrain.plan.paths.routes import PlannedRoute
from tests.plan.paths import naive
from tests.plan.paths.test_reading import changed, network

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shell(capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    Path("network.json").write_text(json.dumps(network()))
    kept = signal.getsignal(signal.SIGINT)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["swarmtrain", "plan", "network.json", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    signal.signal(signal.SIGINT, kept)


def test_json_is_a_plan_that_another_simulation_confirms(shell):
    code, out, _ = shell("--evaluations", "300", "-o", "json")
    found = json.loads(out)
    assert code == 0
    assert {
        "makespan_seconds",
        "lower_bound_seconds",
        "planning_seconds",
        "placement",
        "routes",
    } <= set(found)
    instance = read_instance(json.dumps(network()))
    names = [own.name for own in instance.peers]
    assert found["placement"] == {own.name: list(own.stages or ()) for own in instance.peers}
    routes = []
    for index, route in enumerate(found["routes"]):
        assert set(route) == {"microbatch", "edge", "peers", "stages", "release_seconds"}
        assert route["microbatch"] == index and len(route["peers"]) == instance.visits - 1
        peers = tuple(names.index(name) for name in (route["edge"], *route["peers"]))
        routes.append(PlannedRoute((0, *route["stages"]), peers, route["release_seconds"]))
    jobs = naive.simulate(instance, routes)
    assert max(job.end for job in jobs) == found["makespan_seconds"]
    assert found["lower_bound_seconds"] <= found["makespan_seconds"]
    assert found["gap"] == pytest.approx(found["makespan_seconds"] / found["lower_bound_seconds"])


def test_the_table_shows_routes_and_the_worst_path(shell):
    code, out, _ = shell("--evaluations", "100")
    assert code == 0
    assert "makespan" in out and "lower bound" in out and "gap" in out
    assert "p0:0 > " in out and "worst path: microbatch" in out and "backward" in out


def test_the_same_evaluations_and_seed_give_the_same_routes(shell):
    runs = [shell("--evaluations", "200", "--seed", "3", "-o", "json")[1] for _ in range(2)]
    first, second = (json.loads(out) for out in runs)
    assert first["routes"] == second["routes"]


def test_skip_chooses_the_visits(shell):
    for skip, visited in (("0", 2), ("0.5", 1), ("0.9", 1)):
        _, out, _ = shell("--skip", skip, "--seconds", "0", "-o", "json")
        assert {len(route["peers"]) for route in json.loads(out)["routes"]} == {visited}
    code, _, error = shell("--skip", "1")
    assert code == 2 and "--skip 1.0 cannot be used" in error


def test_a_bad_file_is_refused_with_the_place(shell):
    Path("network.json").write_text(changed(["peers", 2, "memory_slots"], 0))
    code, _, error = shell()
    assert code == ConfigError.exit_code
    assert "peers[2].memory_slots cannot be used" in error and "why:" in error and "do:" in error
    Path("network.json").unlink()
    code, _, error = shell()
    assert code == 2 and "network.json cannot be read" in error


def test_ctrl_c_prints_the_best_so_far(shell):
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    code, out, error = shell("--seconds", "60", "-o", "json")
    timer.join()
    assert code == 0 and "stopping" in error
    assert json.loads(out)["planning_seconds"] < 30


def test_planning_never_imports_torch(tmp_path: Path):
    file = tmp_path / "network.json"
    file.write_text(json.dumps(network()))
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['swarmtrain', 'plan', {str(file)!r}, '--evaluations', '20']\n"
        "try: runpy.run_module('swarmtrain', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('HEAVY', sorted({'torch', 'hivemind', 'grpc'} & set(sys.modules)))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "HEAVY []" in outcome.stdout
