"""Runs on this machine with faults, for tests: what must hold after each of them, whatever went wrong (C1 to C5)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from swarmtrain.coordinator.state import RunState
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.experiments.checker import check_folder
from swarmtrain.experiments.injections import Trial, reference_sha256
from tests.integration.processes import ROOT, Workplace, lines_of

EQUALITY = ROOT / "deploy" / "runs" / "equality.toml"
ENDLESS = ("run.steps=100000",)
"""For runs that their script ends."""

PATIENT_LINKS = ("links.heartbeat_seconds=5.0", "links.silence_seconds=20.0")
"""For runs in which nothing dies: processes that start on a busy machine may keep others from their heartbeats."""

QUICK_LINKS = (
    "links.heartbeat_seconds=0.5",
    "links.silence_seconds=1.5",
    "links.connect_seconds=1.0",
)
"""Frozen peers are found in a third of the usual time."""

Script = Callable[[Trial], Awaitable[None]]


def config_of(*overrides: str) -> RunConfig:
    """deploy/runs/equality.toml with half its tokens."""
    return load_config([EQUALITY], ["train.sequence_length=32", *overrides])


def tried(
    place: Workplace,
    config: RunConfig,
    stages: Sequence[str],
    faults: Mapping[int, Sequence[str]],
    script: Script | None = None,
) -> tuple[Trial, RunState]:
    """Play a trial and prove that its faults happened, cost no bit, and left nothing behind."""
    trial = Trial(config, place.folder / "out", stages, faults)
    state = asyncio.run(trial.play(script))
    place.expect_nothing_left(10)
    fired = {peer: trial.fired(peer) for peer in range(len(stages))}
    assert fired == {peer: sorted_like(fired[peer], faults.get(peer, ())) for peer in fired}
    steps = [line["step"] for line in lines_of(trial.folder / "metrics.jsonl")]
    assert steps == [*range(state.step)]
    assert state.step == config.run.steps or script is not None
    trouble = notes_of_trouble(trial)
    assert not trouble, trouble
    assert not check_folder(trial.folder)
    delays_seconds = [entry.arrived_seconds - entry.at_seconds for entry in trial.entries]
    assert min(delays_seconds) >= 0.0, "the processes' clocks are one"
    assert state.parameters_sha256 == reference_sha256(trial.config, state.step)
    return trial, state


def sorted_like(fired: Sequence[str], armed: Sequence[str]) -> list[str]:
    """`armed` in the order in which they happened."""
    return sorted(armed, key=lambda fault: fired.index(fault) if fault in fired else -1)


def notes_of_trouble(trial: Trial) -> list[str]:
    """Events in any peer's own journal that no fault may cause."""
    found = []
    for path in sorted((trial.folder / "peers").rglob("journal.jsonl")):
        for entry in lines_of(path):
            event = entry["event"]
            is_error = event["kind"] == "noted" and event["what"] == "internal error"
            if is_error or event["kind"] in ("diverged", "bad_message"):
                found.append(f"{path.parent.name}: {event}")
    return found


def journal_of(trial: Trial, peer: int) -> list[dict[str, object]]:
    """The events of a peer's own journal, also those that it could not report."""
    path: Path = trial.folder / "peers" / f"peer-{peer + 1}" / "journal.jsonl"
    return [entry["event"] for entry in lines_of(path)]
