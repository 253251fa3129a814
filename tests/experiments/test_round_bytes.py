"""Bytes of outer rounds in journals and metrics: the arithmetic, and on top of it what was lost, spoilt or missed."""

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from swarmtrain.core.events import PeerJoined, RoundMerged, RoundSent
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualRun, simulate
from swarmtrain.monitor.figures import registry_of
from swarmtrain.outer.payload import GRAIN_ELEMENTS
from swarmtrain.peer.figures import PeerFigures
from swarmtrain.peer.payloads import Payloads
from swarmtrain.transport.link import Message
from swarmtrain.transport.mux import Mux
from swarmtrain.transport.requests import RoundPieceRequest
from tests.experiments.island_worlds import (
    choices,
    config_of,
    is_agreed,
    islands_of,
    plain_islands,
    run_islands,
)
from tests.experiments.runs import corpus
from tests.experiments.test_round_slices import (
    MIDDLE_ELEMENTS,
    TABLE_ENTRY_BYTES,
    chosen,
    slow_islands,
    wide_config,
)
from tests.experiments.test_rounds import acting, finishes, of_island

Piece = tuple[str, bytes]
"""Who asked, and the request."""


@dataclass(slots=True)
class Ledger:
    """Bodies of answers as links carried them, counted beside the peers' own figures."""

    served: Counter[bytes] = field(default_factory=Counter)
    """By request; whoever gave it."""
    came: list[tuple[Piece, int]] = field(default_factory=list)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answer, call = Payloads.answer, Mux.call

        async def answered(payloads: Payloads, request: RoundPieceRequest) -> Message:
            given = await answer(payloads, request)
            self.served[request.encode()] += len(given.body)
            return given

        async def called(mux: Mux, method: str, request: Message, **more: Any) -> Message:
            got = await call(mux, method, request, **more)
            if method == "round_piece":
                self.came.append(((mux._handler.hello().peer, request.meta), len(got.body)))
            return got

        monkeypatch.setattr(Payloads, "answer", answered)
        monkeypatch.setattr(Mux, "call", called)

    @property
    def lost(self) -> Counter[bytes]:
        """What was served and did not come, by request."""
        came = Counter[bytes]()
        for (_, request), some_bytes in self.came:
            came[request] += some_bytes
        assert came <= self.served
        return self.served - came

    @property
    def again_bytes(self) -> int:
        """What came of pieces that the same peer had to ask for once more."""
        last = dict(self.came)
        return sum(some_bytes for _, some_bytes in self.came) - sum(last.values())


def last_merged(run: VirtualRun) -> dict[tuple[PeerId, int], RoundMerged]:
    """By peer and stage."""
    return {(peer, e.stage): e for _, peer, e in run.events if isinstance(e, RoundMerged)}


def due_bytes(run: VirtualRun) -> int:
    """Every replica gets each other island's contributions once, whoever gives them."""
    island_of = {p: e.island for _, p, e in run.events if isinstance(e, PeerJoined)}
    return sum(
        e.bytes * (len(set(island_of.values())) - 1)
        for _, peer, e in run.events
        if isinstance(e, RoundSent)
    )


LOSSY = (
    *(
        Fault("corrupt", (f"{a}-{stage}-0", f"{1 - a}-{stage}-{at}"), 4.0, amount=2)
        for a, stage, at in itertools.product((0, 1), (1, 2), (0, 1))
    ),
    *(
        Fault("drop", (f"{a}-{stage}-{at}", f"{1 - a}-{stage}-{at}"), at_point="round.serving")
        for a, stage, at in ((0, 0, 0), (1, 1, 1), (1, 2, 0))
    ),
)
"""Answers between islands that are damaged on their way, or do not arrive. Who asks whom goes by the peers' ids; what
one replica of an island spoils can be had from the other."""


@pytest.mark.parametrize("faults", [(), LOSSY], ids=["calm", "lossy"])
def test_beyond_the_arithmetic_there_are_just_the_pieces_that_came_again(
    faults: tuple[Fault, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Received and served as the journal has them, against what contributions take, and against what links carried."""
    ledger = Ledger()
    ledger.watch(monkeypatch)
    torch.set_num_threads(1)
    scenario = Scenario(islands_of(2, 2), faults=faults, stall_seconds=600, patience_seconds=200)
    config = config_of("outer.codec=int4", "outer.grace_seconds=30", steps=22)
    run = simulate(config, scenario, corpus())
    assert finishes(run, 12) and is_agreed(run)
    assert {islands for found in choices(run).values() for islands, _ in found} == {(0, 1)}
    received = sum(event.received_bytes for event in last_merged(run).values())
    served = sum(event.served_bytes for event in last_merged(run).values())
    assert received == due_bytes(run) + ledger.again_bytes
    assert served == received + ledger.lost.total()
    assert bool(ledger.again_bytes) == bool(ledger.lost) == bool(faults)
    assert sum(some_bytes for _, some_bytes in ledger.came) == received


@pytest.mark.parametrize(
    "rule", [("outer.optimizer=nesterov",), ("outer.optimizer=average", "outer.learning_rate=1.0")]
)
def test_who_catches_up_receives_the_outer_state_and_that_is_counted_apart(
    rule: tuple[str, ...],
) -> None:
    """An island that joins late: parameters, and momentum where there is any, of float32."""
    config = config_of("outer.delay_steps=2", "outer.fragments=2", *rule, steps=40)
    peers = islands_of(2)
    late = of_island(peers, 1)

    def join(stage: Stage) -> None:
        for peer in late:
            stage.add(peer)

    run = run_islands(config, of_island(peers, 0), acting(12.0, join), late)
    assert finishes(run, 6) and is_agreed(run)
    island_of = {p: e.island for _, p, e in run.events if isinstance(e, PeerJoined)}
    merged = [(p, e) for _, p, e in run.events if isinstance(e, RoundMerged)]
    places = {
        place: m.fragment.elements
        for place, m in plain_islands(config, 2).active[0].members.items()
    }
    last = {(p, e.stage, e.fragment): e for p, e in merged}
    assert {(e.stage, e.fragment) for _, e in merged if e.how == "catch_up"} == set(places)
    vectors = 1 if rule[0].endswith("average") else 2
    for (peer, stage, fragment), event in last.items():
        due = 4 * vectors * places[stage, fragment]
        is_late = island_of[peer] == 1
        assert event.state_received_bytes == (due if is_late else 0)
        assert event.state_served_bytes == (0 if is_late else due)


def scraped(figures: PeerFigures) -> dict[tuple[str, str, str], int]:
    """What `/metrics` says of bytes: by name, stage and what they were of."""
    text = generate_latest(registry_of(figures.read)).decode()
    return {
        (family.name, sample.labels.get("stage", ""), sample.labels.get("of", "")): int(
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name.endswith("_bytes")
    }


ROUNDS = 2


def test_bytes_of_metrics_of_the_journal_of_links_and_of_the_arithmetic_are_the_same() -> None:
    """Islands of one machine each: two contributions of 4 bytes a parameter come to each, for the tokens of three
    islands, and lines carry little else."""
    read: list[dict[tuple[str, str, str], int]] = []
    merged: list[RoundMerged] = []

    def script(stage: Stage) -> "asyncio.Future[None]":
        async def scrape() -> None:
            for _ in range(100_000):
                merged[:] = last_merged(stage.run).values()
                if [event.round for event in merged] == 9 * [ROUNDS]:
                    break
                await asyncio.sleep(0.01)
            for session in stage.sessions.values():
                figures = PeerFigures()
                figures.session = session
                read.append(scraped(figures))

        return asyncio.ensure_future(scrape())

    config = wide_config("outer.codec=none", "outer.delay_steps=1", steps=5 * ROUNDS + 2)
    run = run_islands(config, slow_islands((9000.0, 9000.0, 9000.0)), script)
    assert finishes(run, 3) and len(read) == 3
    assert not any(event.owners for event in chosen(run).values())
    sections = -(-MIDDLE_ELEMENTS // GRAIN_ELEMENTS)
    round_bytes = 2 * (4 * MIDDLE_ELEMENTS + TABLE_ENTRY_BYTES * sections)
    tokens = 3 * 5 * config.train.microbatches * config.train.tokens_per_microbatch
    for event in merged:
        assert event.tokens == tokens
        if event.stage:
            assert event.received_bytes == ROUNDS * round_bytes
    for way, other in (("received", "received"), ("served", "sent")):
        name = f"swarmtrain_peer_round_{way}_bytes"
        # Whoever is first has merged before the others have all of it.
        for stage in range(3):
            found = [peer[name, str(stage), "payloads"] for peer in read]
            assert sum(found) == sum(e.received_bytes for e in merged if e.stage == stage) > 0
        for peer in read:
            rounds = sum(some_bytes for key, some_bytes in peer.items() if key[0] == name)
            carried = peer[f"swarmtrain_peer_{other}_bytes", "", ""]
            assert rounds < carried < 1.02 * rounds
            assert not any(peer[name, str(stage), "states"] for stage in range(3))
