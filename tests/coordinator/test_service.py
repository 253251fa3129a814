"""What a coordinator takes from others: its journal stays readable and nobody speaks for another (I5, I7)."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarmtrain.checkpoint.initial import InitialModel
from swarmtrain.cli.status import _links, _table
from swarmtrain.coordinator.service import Coordinator, RunFolder
from swarmtrain.core.clock import run_virtual
from swarmtrain.core.errors import ConfigError, LinkError, ModelError, Refused, StateError
from swarmtrain.core.events import (
    IslandChosen,
    LinksMeasured,
    PeerJoined,
    StepCommitted,
    TermStarted,
)
from swarmtrain.core.live import Vitals
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.core.types import PeerId
from swarmtrain.core.version import VERSION
from swarmtrain.experiments.imported import settings_of
from swarmtrain.experiments.reference import Reference
from swarmtrain.monitor.journal import journal_line, read_journal
from swarmtrain.recovery.dealing import pace_of
from swarmtrain.recovery.transfer import fetch_stage
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.link import PROTOCOL, Hello, Link, LinkLimits, Message
from swarmtrain.transport.memory import MemoryNetwork, MemoryTransport
from swarmtrain.transport.messages import decode
from swarmtrain.transport.requests import Description, EventBatch, IslandStart
from tests.checkpoint.llamas import MODEL, tensors_of, write_llama
from tests.experiments.runs import corpus, small_config
from tests.transport.worlds import Watcher

CONFIG = small_config()
RUN = bytes.fromhex(CONFIG.hash)
SILENCE_SECONDS = 5.0


def line(peer: str, event: Any) -> str:
    return journal_line(event, 1.0, PeerId(peer))


HEALTHY = [
    line("anna", PeerJoined("anna", "anna", "a:1", ())),
    line("anna", TermStarted("anna", 1, 0, "lowest edge")),
    line("anna", StepCommitted(0, 5.0, 384, 0.5, 1e-3, 1.0, (), "sha")),
]


class Guest(Watcher):
    """A peer, or what claims to be one."""

    def __init__(self, name: str, **changes: Any) -> None:
        super().__init__(name)
        fields: dict[str, Any] = {
            "protocol": PROTOCOL, "version": VERSION, "run": RUN, "peer": PeerId(name),
            "corpus": "", "kernel_class": "", "address": "", "role": "peer",
        }  # fmt: skip
        self._hello = Hello(**{**fields, **changes})

    def hello(self) -> Hello:
        return self._hello


class Scene:
    """A coordinator in virtual time, and links to it."""

    def __init__(self, folder: Path) -> None:
        self.network = MemoryNetwork(0.001, 1e9, LinkLimits())
        self.folder = folder
        identity = Identity.from_seed(bytes(32))
        transport = self.network.transport("coordinator")
        self.coordinator = Coordinator(
            CONFIG, identity, transport, RunFolder(folder), lambda state, entry: None
        )
        self._guests: list[MemoryTransport] = []

    async def link(self, guest: Guest) -> Link:
        transport = self.network.transport(f"host{len(self._guests)}")
        self._guests.append(transport)
        return await transport.dial(self.coordinator.address, guest.hello(), guest, 5.0)

    async def tell(self, guest: Guest, *lines: str) -> Link:
        link = await self.link(guest)
        link.tell("events", EventBatch(guest.hello().peer, lines, 0).encode())
        await asyncio.sleep(1.0)
        return link

    async def close(self) -> None:
        for transport in self._guests:
            await transport.close()
        await self.coordinator.close()


def play(folder: Path, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        scene = Scene(folder)
        await scene.coordinator.start("coordinator:0", "")
        try:
            await act(scene)
        finally:
            await scene.close()

    run_virtual(main())


def test_events_become_journal_metrics_and_state(tmp_path: Path):
    async def act(scene: Scene) -> None:
        await scene.tell(Guest("anna"), *HEALTHY)
        assert (scene.coordinator.state.step, scene.coordinator.state.conductor) == (1, "anna")
        assert scene.coordinator.started.is_set() and not scene.coordinator.stopped.is_set()

    play(tmp_path, act)
    assert [entry["event"]["kind"] for entry in read_journal(tmp_path / "journal.jsonl")] == [
        "peer_joined",
        "term_started",
        "step_committed",
    ]
    (metric,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metric) == {"step": 0, "loss": 5.0, "tokens": 384, "seconds": 0.5}


BAD_LINES = {
    "no JSON": "not a journal entry\n",
    "a number": "17\n",
    "no event": '{"peer": "eve", "time_seconds": 1.0}\n',
    "no kind": '{"event": {}, "peer": "eve", "time_seconds": 1.0}\n',
    "no time": '{"event": {"kind": "noted"}, "peer": "eve"}\n',
    "more": '{"event": {"kind": "noted"}, "peer": "eve", "time_seconds": 1, "x": 1}\n',
    "two lines": '{"event": {"kind": "noted"},\n "peer": "eve", "time_seconds": 1.0}\n',
    "half a line": '{"event": {"kind": "noted"}, "peer": "eve", "time_seconds": 1.0}',
    "a step without figures": '{"event": {"kind": "step_committed"}, "peer": "eve", "time_seconds": 1}\n',
    "a step of text": '{"event": {"kind": "step_committed", "step": "1", "loss": 1, "tokens": 1, '
    '"seconds": 1, "parameters_sha256": ""}, "peer": "eve", "time_seconds": 1}\n',
    "deep": "[" * 20_000 + "\n",
    "another's": line("anna", StepCommitted(1, 0.0, 1, 1.0, 1.0, 1.0, (), "forged")),
}


@pytest.mark.parametrize("bad", list(BAD_LINES))
def test_a_bad_event_costs_its_sender_the_link_and_nobody_else(tmp_path: Path, bad: str):
    async def act(scene: Scene) -> None:
        await scene.tell(Guest("anna"), *HEALTHY)
        before = scene.coordinator.state
        eve = Guest("eve")
        await scene.tell(eve, BAD_LINES[bad])
        assert eve.closed_reasons, "the link is closed"
        after = scene.coordinator.state
        assert after.history.curve == before.history.curve
        assert replace(after, history=before.history) == before, "but for what is told of it"
        again = line("anna", StepCommitted(1, 4.0, 384, 0.5, 1e-3, 1.0, (), "sha-1"))
        await scene.tell(Guest("anna"), again)
        assert scene.coordinator.state.step == 2

    play(tmp_path, act)
    entries = [entry["event"] for entry in read_journal(tmp_path / "journal.jsonl")]
    assert len(entries) == len(HEALTHY) + 2
    told = entries[len(HEALTHY)]
    assert (told["kind"], told["peer"]) == ("bad_message", "eve") and told["reason"], "it is told"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_bug_met_while_a_peer_is_served_is_an_event(tmp_path: Path):
    def broken(*_: object) -> None:
        raise KeyError("a bug")

    async def act(scene: Scene) -> None:
        scene.coordinator.folder.metrics.write = broken  # type: ignore[method-assign]
        link = await scene.tell(Guest("anna"), *HEALTHY)
        scene.coordinator.status = broken  # type: ignore[assignment,method-assign]
        with pytest.raises(Refused, match="internal error"):
            await link.call("status", Message(b""), silence_seconds=3.0)

    play(tmp_path, act)
    events = [entry["event"] for entry in read_journal(tmp_path / "journal.jsonl")]
    noted = [event["detail"] for event in events if event["kind"] == "noted"]
    assert noted == ["events: KeyError('a bug')", "status: KeyError('a bug')"]


@pytest.mark.parametrize("changes", [{"run": bytes(32)}, {"version": "0.0"}])
def test_a_peer_of_another_run_is_refused_and_told_why(tmp_path: Path, changes: dict[str, Any]):
    async def act(scene: Scene) -> None:
        with pytest.raises(Refused, match="this peer cannot join the run") as caught:
            await scene.link(Guest("eve", **changes))
        assert caught.value.why and caught.value.remedy

    play(tmp_path, act)
    (entry,) = read_journal(tmp_path / "journal.jsonl")
    assert (entry["event"]["kind"], entry["event"]["peer"]) == ("peer_refused", "eve")


def test_a_query_may_ask_and_not_tell(tmp_path: Path):
    async def act(scene: Scene) -> None:
        guest = Guest("query", role="query", run=b"", version="")
        link = await scene.link(guest)
        reply = await link.call("status", Message(b""), silence_seconds=SILENCE_SECONDS)
        status = json.loads(bytes(reply.body))
        assert (status["step"], status["steps"], status["run_hash"]) == (
            0,
            CONFIG.run.steps,
            CONFIG.hash,
        )
        with pytest.raises(LinkError):
            await link.call("process", Message(b""), silence_seconds=SILENCE_SECONDS)
        link.tell("events", EventBatch(PeerId("query"), tuple(HEALTHY), 0).encode())
        await asyncio.sleep(1.0)
        assert guest.closed_reasons and scene.coordinator.state.step == 0

    play(tmp_path, act)


def test_status_says_as_text_who_is_there_and_why_in_which_island(tmp_path: Path):
    async def act(scene: Scene) -> None:
        measured = LinksMeasured("anna", (("bert", 0.02, 1e6, 3),))
        await scene.tell(Guest("anna"), *HEALTHY, line("anna", measured))
        chosen = IslandChosen("bert", 1, "3 peers near each other")
        bert = [line("bert", PeerJoined("bert", "bert", "b:1", (2,), 1)), line("bert", chosen)]
        await scene.tell(Guest("bert"), *bert)
        state = json.loads(json.dumps(scene.coordinator.status()))
        text = _table(state)
        assert "step 1 of" in text and "island 1: 3 peers near each other" in text
        assert "20.0 / 8" in _links(state["peers"])

    play(tmp_path, act)


def test_there_is_no_checkpoint_of_nothing(tmp_path: Path):
    async def act(scene: Scene) -> None:
        with pytest.raises(StateError, match="no checkpoint to save"):
            await scene.coordinator.save_checkpoint()

    play(tmp_path, act)


def test_no_checkpoint_is_written_when_nobody_has_the_state(tmp_path: Path):
    async def act(scene: Scene) -> None:
        link = await scene.tell(Guest("anna"), *HEALTHY)
        with pytest.raises(StateError, match="stage 0 at step 1 could not be fetched"):
            await scene.coordinator.save_checkpoint()
        await link.close()

    play(tmp_path, act)
    assert not (tmp_path / "checkpoint").exists()


def test_who_asks_for_weights_too_early_is_told_when_to_come(tmp_path: Path):
    async def act(scene: Scene) -> None:
        await scene.tell(Guest("anna"), *HEALTHY)
        link = await scene.link(Guest("query", role="query", run=b"", version=""))
        with pytest.raises(Refused, match="no state of this run is kept yet") as caught:
            await link.call("checkpoint", Message(b""), silence_seconds=SILENCE_SECONDS)
        assert "peers keep the state of every 10 steps" in str(caught.value)

    play(tmp_path, act)


def test_strangers_who_ask_for_weights_trouble_peers_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved: list[int] = []

    async def act(scene: Scene) -> None:
        coordinator = scene.coordinator

        async def save(island: int, step: int) -> None:
            saved.append(step)
            coordinator.checkpoints.newest = CheckpointAt(step, bytes(32))

        monkeypatch.setattr(coordinator, "_save", save)
        link = await scene.link(Guest("query", role="query", run=b"", version=""))

        async def asked_at(step: int) -> int:
            coordinator.state = replace(coordinator.state, step=step)
            question = link.call("checkpoint", Message(b""), silence_seconds=SILENCE_SECONDS)
            return decode(CheckpointAt, (await question).meta).step

        assert [await asked_at(step) for step in (12, 14, 35)] == [10, 10, 10]
        await asyncio.sleep(61)
        assert await asyncio.gather(asked_at(35), asked_at(47)) == [40, 40]

    play(tmp_path, act)
    assert saved == [10, 40]


def test_a_run_that_continues_a_model_starts_from_it_or_not_at_all(tmp_path: Path):
    source = write_llama(tmp_path / "llama")
    config = small_config(*settings_of(source))

    async def started(folder: Path) -> tuple[Any, str]:
        network = MemoryNetwork(0.001, 1e9, LinkLimits())
        coordinator = Coordinator(
            config,
            Identity.from_seed(bytes(32)),
            network.transport("coordinator"),
            RunFolder(folder),
            lambda *_: None,
        )
        try:
            await coordinator.start("coordinator:0", "")
            link = await network.transport("guest").dial(
                coordinator.address, Guest("query", role="query").hello(), Guest("query"), 5.0
            )
            found = await fetch_stage([link], 1, 0, pace_of(config.links))
            assert found.base == coordinator.checkpoints.newest.base  # type: ignore[union-attr]
            return found.state, (folder / "journal.jsonl").read_text()
        finally:
            await coordinator.close()

    (tmp_path / "one").mkdir()
    state, journal = asyncio.run(started(tmp_path / "one"))
    expected = InitialModel(config.model).stage(1)
    assert state.parameters.tobytes() == expected.parameters.tobytes()
    assert "from the model in" in journal
    write_llama(source, tensors=tensors_of(MODEL, seed=1))
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelError, match="are not those of the run"):
        asyncio.run(started(tmp_path / "other"))


def test_newcomers_hear_of_the_start_until_a_step_is_committed(tmp_path: Path):
    """Later the checkpoint may be gone from disk, and siblings have what a newcomer needs."""

    class Nowhere:
        bootstrap = ("/ip4/127.0.0.1/tcp/1/p2p/x",)

        async def close(self) -> None:
            """Nothing is open."""

    loop = Reference(CONFIG, corpus(), corpus().tokenizer.vocab_size)
    loop.advance()
    loop.save(tmp_path / "checkpoint")
    starts: list[tuple[IslandStart, ...]] = []

    async def act(scene: Scene) -> None:
        scene.coordinator.resume()
        scene.coordinator.open_run(Nowhere(), "corpus")  # type: ignore[arg-type]
        link = await scene.link(Guest("query", role="query", run=b"", version=""))
        for _ in range(2):
            reply = await link.call("describe", Message(b""), silence_seconds=SILENCE_SECONDS)
            starts.append(Description.decode(reply.meta).starts)
            committed = StepCommitted(1, 5.0, 384, 0.5, 1e-3, 1.0, (), "sha")
            await scene.tell(Guest("anna"), line("anna", committed))

    play(tmp_path, act)
    assert starts == [(IslandStart(0, CheckpointAt(1, bytes(32))),), ()]


def test_a_run_folder_is_written_by_one_process(tmp_path: Path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ConfigError, match="another process writes"):
        RunFolder(tmp_path)
    folder.close()
    RunFolder(tmp_path).close()


def test_a_run_without_a_checkpoint_resumes_from_its_beginning(tmp_path: Path):
    """What its first session trained is trained again."""
    before = RunFolder(tmp_path)
    before.metrics.write(0, 1.0, 8, 0.1)
    before.close()

    async def main() -> int:
        service = Coordinator(
            small_config(),
            Identity.from_seed(b"c" * 32),
            None,
            RunFolder(tmp_path),
            lambda *_: None,  # type: ignore[arg-type]
        )
        service.resume()
        service.folder.close()
        return service.state.step

    assert asyncio.run(main()) == 0
    # Only the first step that comes says whether the run begins anew: the test of a second start below.
    assert "no checkpoint was saved yet" in (tmp_path / "journal.jsonl").read_text()


def commit(step: int) -> str:
    return line("anna", StepCommitted(step, 5.0 - step, 384, 0.5, 1e-3, 1.0, (), "sha"))


def test_live_events_are_folded_and_counted_and_kept_in_no_journal(tmp_path: Path):
    async def act(scene: Scene) -> None:
        vitals = line("anna", Vitals("anna", 10, 20, 0.5, 30, was_dialled=True))
        await scene.tell(Guest("anna"), *HEALTHY, vitals)
        assert scene.coordinator.state.peers[PeerId("anna")].resident_bytes == 30
        assert "reachable directly" in _table(scene.coordinator.status())
        assert scene.coordinator.event_counts["vitals"] == 1

    play(tmp_path, act)
    assert "vitals" not in (tmp_path / "journal.jsonl").read_text()


def test_kinds_that_there_are_not_are_counted_as_one(tmp_path: Path):
    async def act(scene: Scene) -> None:
        lines = [
            f'{{"event":{{"kind":"made-up-{n}"}},"peer":"eve","time_seconds":1.0}}\n'
            for n in range(9)
        ]
        await scene.tell(Guest("eve"), *lines)
        assert scene.coordinator.event_counts == {"unknown": 9}

    play(tmp_path, act)


def test_a_clock_that_is_ahead_is_noted_once_and_set_right(tmp_path: Path):
    def late(event: Any, at: float) -> str:
        return journal_line(event, at, PeerId("anna"))

    async def act(scene: Scene) -> None:
        joined = late(PeerJoined("anna", "anna", "a:1", ()), 9000.0)
        link = await scene.tell(Guest("anna"), joined)
        term = late(TermStarted("anna", 1, 0, "lowest edge"), 9001.0)
        link.tell("events", EventBatch(PeerId("anna"), (term,), 0).encode())
        await asyncio.sleep(1.0)
        told = scene.coordinator.state.history.log[-1]
        assert told.kind == "term_started" and 0.0 < told.at_seconds < 3.0

    play(tmp_path, act)
    kinds = [entry["event"]["kind"] for entry in read_journal(tmp_path / "journal.jsonl")]
    assert kinds == ["clock_seen", "peer_joined", "term_started"]


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_coordinator_that_is_started_again(tmp_path: Path, is_alive: bool):
    """Peers that trained on are taken up where they are; a swarm that starts anew begins where the checkpoint says."""

    async def first(scene: Scene) -> None:
        await scene.tell(Guest("anna"), *HEALTHY, commit(1), commit(2))

    async def second(scene: Scene) -> None:
        scene.coordinator.resume()
        assert scene.coordinator.state.live_peers == () and scene.coordinator.state.step == 0
        assert [p.step for p in scene.coordinator.state.history.curve.points] == [0, 1, 2]
        lines = [commit(3)] if is_alive else HEALTHY
        await scene.tell(Guest("anna"), *lines)
        state = scene.coordinator.state
        assert (state.step, state.conductor) == (4 if is_alive else 1, "anna")
        assert [view.name for view in state.live_peers] == ["anna"]
        assert scene.coordinator.started.is_set() and state.tokens == 384 * state.step

    play(tmp_path, first)
    play(tmp_path, second)
    steps = [
        json.loads(text)["step"] for text in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == ([0, 1, 2, 3] if is_alive else [0])
