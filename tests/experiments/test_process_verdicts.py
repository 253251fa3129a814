"""A run of real processes is judged as one in virtual time: by every island's steps and rounds, not the shown one's."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swarmtrain.coordinator.state import RunState
from swarmtrain.experiments.curves import points_of
from swarmtrain.experiments.processes import ProcessRun
from swarmtrain.experiments.sweep import Verdict, judge_processes
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
    ended = RunState(finished=True)
    run = ProcessRun(ended, 60.0, (), {}, 50.0, lines, islands, island_risks, {}, 0)
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
