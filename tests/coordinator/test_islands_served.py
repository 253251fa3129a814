"""Whose checkpoints a coordinator of several islands saves and serves: each island's its own, whichever is shown."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.checkpoint.store import known_steps, save
from swarmtrain.core.events import PeerJoined, StepCommitted, TermStarted
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.monitor.journal import read_journal
from swarmtrain.recovery.dealing import pace_of
from swarmtrain.recovery.serving import layout_answer, state_piece
from swarmtrain.recovery.transfer import fetch_stage
from swarmtrain.transport.link import Message
from swarmtrain.transport.messages import decode
from swarmtrain.transport.requests import StateRequest
from tests.checkpoint.states import stage_state
from tests.coordinator.test_service import CONFIG, SILENCE_SECONDS, Guest, Scene, line, play


@pytest.fixture(autouse=True)
def _files_are_read_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time cannot see threads."""

    async def inline(work: Any, *args: Any, **named: Any) -> Any:
        return work(*args, **named)

    monkeypatch.setattr(asyncio, "to_thread", inline)


def joined(name: str, island: int) -> str:
    return line(name, PeerJoined(name, name, f"{name}:1", (0, 1, 2), island))


def kept(folder: Path, step: int, base: bytes) -> CheckpointAt:
    """A checkpoint in `folder`, with stages unlike those of other bases."""
    states = [stage_state(stage, seed=base[0]) for stage in range(3)]
    save(folder, step=step, base=base, config_json=CONFIG.to_json(), states=states, keep=3)
    return CheckpointAt(step, base)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_after_a_resume_each_island_gets_its_own_state_whoever_speaks_first(
    tmp_path: Path, order: tuple[int, ...]
):
    folder = tmp_path / "checkpoint"
    own = {0: kept(folder, 2, b"a" * 32), 1: kept(folder / "island-0001", 2, b"b" * 32)}
    told: dict[int, CheckpointAt] = {}

    async def act(scene: Scene) -> None:
        scene.coordinator.resume()
        for island in order:
            guest = Guest(f"guest{island}", island=island)
            link = await scene.tell(guest, joined(guest.name, island))
            found = await fetch_stage([link], 1, 2, pace_of(CONFIG.links))
            told[island] = CheckpointAt(found.step, found.base)
            assert [decode(CheckpointAt, meta) for what, meta in guest.tells] == [own[island]]

    play(tmp_path, act)
    assert told == own


def test_an_island_that_is_shown_alone_keeps_to_its_own_folder_and_strangers_get_its_state(
    tmp_path: Path,
):
    """The first island is gone: what the second one saves must not be taken for the first one's at a resume."""
    first = kept(tmp_path / "checkpoint", 1, b"a" * 32)
    base = b"b" * 32

    async def answer(method: str, request: Message) -> Message:
        question = StateRequest.decode(request.meta)
        state = stage_state(question.stage, seed=base[0])
        return layout_answer(state) if method == "layout" else state_piece(state, base, question)

    async def act(scene: Scene) -> None:
        guest = Guest("bert", island=1)
        guest.answer = answer
        term = line("bert", TermStarted("bert", 1, 0, "lowest edge"))
        done = line("bert", StepCommitted(9, 5.0, 384, 0.5, 1e-3, 1.0, (), "sha"))
        await scene.tell(guest, joined("bert", 1), term, done)
        assert scene.coordinator.state.shown_island == 1
        query = await scene.link(Guest("query", role="query", run=b"", version=""))
        reply = await query.call("checkpoint", Message(b""), silence_seconds=SILENCE_SECONDS)
        assert decode(CheckpointAt, reply.meta) == CheckpointAt(10, base)
        found = await fetch_stage([query], 0, 10, pace_of(CONFIG.links))
        assert (found.step, found.base) == (10, base)

    play(tmp_path, act)
    folder = tmp_path / "checkpoint"
    assert known_steps(folder) == [first.step] and known_steps(folder / "island-0001") == [10]
    (saved,) = [
        entry["event"]
        for entry in read_journal(tmp_path / "journal.jsonl")
        if entry["event"]["kind"] == "checkpoint_saved"
    ]
    assert saved["path"] == "island-0001/step-00000010"
