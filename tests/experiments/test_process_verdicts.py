"""A run of real processes is judged as one in virtual time: by every island's steps and rounds, not the shown one's."""

import asyncio
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.coordinator.state import RunState
from swarmtrain.core.errors import Stopped
from swarmtrain.core.types import Member, Roster
from swarmtrain.experiments.curves import points_of
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.local import LocalSwarm, new_coordinator
from swarmtrain.experiments.processes import ProcessRun, ProcessStage
from swarmtrain.experiments.sweep import Verdict, judge_processes
from swarmtrain.experiments.virtual import Scenario, VirtualPeer
from tests.experiments.island_worlds import config_of, islands_of, run_islands
from tests.experiments.runs import corpus

CONFIG, PEERS = config_of(steps=12), islands_of(2)


@functools.cache
def journal() -> tuple[str, ...]:
    return tuple(run_islands(CONFIG, PEERS).journal.lines)


def judged(folder: Path, is_kept: Callable[[int, dict[str, Any]], bool], **risks: str) -> Verdict:
    """The verdict where of the journal that is left of which `is_kept(island, event)`."""
    entries = [json.loads(line) for line in journal()]
    joined = [e["event"] for e in entries if e["event"]["kind"] == "peer_joined"]
    island_of = {event["peer"]: event["island"] for event in joined}
    kept = [e for e in entries if is_kept(island_of.get(e["peer"], 0), e["event"])]
    lines = [json.dumps(entry) + "\n" for entry in kept]
    (folder / "journal.jsonl").write_text("".join(lines), encoding="utf-8")
    islands = {peer.name: peer.island or 0 for peer in PEERS}
    island_risks = {0: "", 1: risks.get("second", "")}
    cut_short = risks.get("cut_short", "")
    ended, whole_risk = RunState(finished=not cut_short), risks.get("whole", "")
    run = ProcessRun(
        ended, 60.0, (), {}, 50.0, lines, islands, island_risks, {}, 0, cut_short, whole_risk
    )
    return judge_processes(CONFIG, run, points_of(lines), corpus(), folder)


def test_a_run_whose_islands_all_came_to_the_end_is_ok(tmp_path: Path) -> None:
    assert judged(tmp_path, lambda island, event: True).outcome == "ok"


def is_early(island: int, event: dict[str, Any]) -> bool:
    """All but the last steps of the second island."""
    return not (island == 1 and event.get("kind", "") == "step_committed" and event["step"] >= 10)


def test_an_island_that_is_not_shown_and_stopped_early_is_told(tmp_path: Path) -> None:
    verdict = judged(tmp_path, is_early)
    assert (verdict.outcome, verdict.reason) == ("stalled", "island 1 came to step 10 of 12")


def test_what_a_fault_may_have_cost_an_island_is_no_stall(tmp_path: Path) -> None:
    assert judged(tmp_path, is_early, second="stage 0 may lose every replica").outcome == "ok"


def test_rounds_that_did_not_come_are_told(tmp_path: Path) -> None:
    def is_kept(island: int, event: dict[str, Any]) -> bool:
        is_last = event["kind"] == "round_merged" and event["round"] >= 2
        return not (island == 1 and is_last and event["stage"] == 2)

    verdict = judged(tmp_path, is_kept)
    assert verdict.outcome == "stalled" and "island 1, stage 2, fragment 0: 1 of" in verdict.reason


LOST = "the run stopped after 10 of 12 steps: stage 2 has no replica"


def test_a_run_that_its_faults_may_end_has_halted_and_another_one_stopped(tmp_path: Path) -> None:
    """The words of the virtual world's judge."""
    halted = judged(tmp_path, is_early, cut_short=LOST, whole="stage 2 may lose every replica")
    reason = f"{LOST} (stage 2 may lose every replica)"
    assert (halted.outcome, halted.reason) == ("halted", reason)
    stopped = judged(tmp_path, is_early, cut_short=LOST)
    assert (stopped.outcome, stopped.reason) == ("stopped", LOST)


@pytest.mark.parametrize("kind", ["kill", "straggler"])
def test_where_a_run_of_processes_ends_early_is_told_with_what_its_faults_may_cost(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is started: the swarm is stopped as soon as the faults were drawn."""
    machines = tuple(VirtualPeer(f"m{stage}", (stage,)) for stage in range(3))
    faults = (Fault(kind, ("m2",), at_seconds=50.0, duration_seconds=1.0, amount=2.0),)  # type: ignore[arg-type]
    stage: ProcessStage

    async def run(swarm: LocalSwarm) -> RunState:
        swarm.coordinator = new_coordinator(swarm.config, tmp_path, swarm.changed)
        serving = [Member(stage.names[peer.name], peer.stages or (), "a:1") for peer in machines]
        monkeypatch.setattr(stage, "_roster", lambda state: Roster.of(1, serving))
        await stage._begin_faults(0.0)
        raise Stopped("the run stopped after 10 of 12 steps", "stage 2 has no replica")

    async def main() -> ProcessRun:
        nonlocal stage
        config = config_of("outer.inner_steps=0", steps=12)
        stage = ProcessStage(config, Scenario(machines, faults=faults), corpus(), tmp_path)
        return await stage.play()

    monkeypatch.setattr(LocalSwarm, "run", run)
    ended = asyncio.run(main())
    assert ended.cut_short == LOST and not ended.state.finished
    assert ended.risk == ("stage 2 may lose every replica" if kind == "kill" else "")
