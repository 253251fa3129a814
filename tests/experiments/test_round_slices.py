"""Outer rounds that islands reduce in slices, in virtual time: bits, bytes, and what the loss of an owner may do."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import (
    Noted,
    PeerJoined,
    RoundChosen,
    RoundMerged,
)
from swarmtrain.experiments import islands
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.profiles import MachineProfile, NetworkProfile
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from swarmtrain.outer.member import RoundSettings, close
from swarmtrain.outer.payload import GRAIN_ELEMENTS, round_codec, sizes_of
from swarmtrain.outer.slices import Sizes, sent_bytes
from tests.experiments import round_mutants as mutants
from tests.experiments.island_worlds import (
    config_of,
    is_agreed,
    last_digests,
    plain_islands,
    run_islands,
)
from tests.experiments.runs import corpus
from tests.experiments.test_rounds import finishes

WIDE = (
    "model.width=192",
    "model.heads=4",
    "model.kv_heads=4",
    "model.ffn_width=512",
    "outer.delay_steps=5",
    "outer.zstd_level=0",
)
"""Middle stages of seven sections, and an edge of two, which is too little for slices."""
MIDDLE_ELEMENTS = 442_752
TABLE_ENTRY_BYTES = 20


def wide_config(*overrides: str, steps: int = 17) -> RunConfig:
    return config_of(*WIDE, *overrides, steps=steps)


def machine(kilobytes_per_second: float) -> MachineProfile:
    """A machine whose line sends no faster; a step takes two seconds."""
    return MachineProfile(
        description="a machine on a slow line",
        source="made up",
        flops_per_second=1e8,
        utilisation=0.5,
        memory_bytes=1 << 40,
        up_bytes_per_second=1e3 * kilobytes_per_second,
        down_bytes_per_second=1e7,
    )


def slow_islands(rates: Sequence[float]) -> tuple[VirtualPeer, ...]:
    """One island a rate, of one peer each."""
    return tuple(
        VirtualPeer(f"{island}", (0, 1, 2), machine=machine(rate), island=island)
        for island, rate in enumerate(rates)
    )


def chosen(run: VirtualRun) -> dict[tuple[int, int], RoundChosen]:
    """What was decided, by stage and round."""
    return {(e.stage, e.round): e for _, _, e in run.events if isinstance(e, RoundChosen)}


def plain_loop(
    config: RunConfig, run: VirtualRun, count: int, monkeypatch: pytest.MonkeyPatch
) -> islands.Islands:
    """The plain loop, whose means are encoded once more in those rounds that the run reduced in slices."""
    sliced = {place for place, event in chosen(run).items() if event.owners}

    def close_alike(gathering, settings: RoundSettings, fragment):
        tag = gathering.tag
        answer = settings.codec if (tag.stage, tag.round) in sliced else None
        return close(gathering, replace(settings, answer=answer), fragment)

    monkeypatch.setattr(islands, "close", close_alike)
    return plain_islands(config, count)


@pytest.mark.parametrize(
    ("codec", "rates"), [("none", (1600.0, 3200.0, 1200.0)), ("int4", (200.0, 400.0, 150.0))]
)
def test_slices_give_the_plain_loops_bits(
    codec: str, rates: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = wide_config(f"outer.codec={codec}")
    run = run_islands(config, slow_islands(rates))
    assert finishes(run, 3) and is_agreed(run)
    assert sum(bool(event.owners) for event in chosen(run).values()) >= 4
    loop = plain_loop(config, run, 3, monkeypatch)
    assert last_digests(run) == {island.parameters_sha256() for island in loop.active.values()}


@pytest.mark.parametrize("is_known", [True, False])
def test_no_island_ends_the_run_while_its_last_result_is_on_a_slow_line(
    is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes some 30 seconds, and a result is waited for for six before the end. Nor if nobody knew it was coming."""
    if not is_known:
        mutants.nothing_is_coming(monkeypatch)
    config = wide_config("outer.codec=int4", "outer.delay_steps=1", "outer.inner_steps=8")
    run = run_islands(config, slow_islands((20.0, 20.0)))
    assert finishes(run, 2) and is_agreed(run)
    missed = [e.detail for _, _, e in run.events if isinstance(e, Noted) and "without" in e.what]
    assert bool(missed) is not is_known
    told = [
        p for _, p, e in run.events if isinstance(e, Noted) and "end of the run waits" in e.what
    ]
    assert bool(told) is is_known and len(told) == len(set(told)) * 2, (
        "each conductor, in both last steps"
    )
    merged = {(p, e.stage, e.round) for _, p, e in run.events if isinstance(e, RoundMerged)}
    assert (len([place for place in merged if place[2] == 2]) == 2 * 3) is is_known


def test_bytes_and_shares_are_those_of_the_arithmetic() -> None:
    """Each island sends (1 - s) P + s (R - 1) M in a round, and not (R - 1) P."""
    rates = (300.0, 300.0, 600.0, 900.0)
    run = run_islands(wide_config("outer.codec=int4"), slow_islands(rates))
    assert finishes(run, 4) and is_agreed(run)
    island_of = {p: e.island for _, p, e in run.events if isinstance(e, PeerJoined)}
    decided = {place: event for place, event in chosen(run).items() if place[0] and place[1]}
    assert len(decided) >= 4 and all(len(event.owners) == 4 for event in decided.values())
    total = {
        (island_of[p], e.stage, e.round): (e.received_bytes, e.served_bytes)
        for _, p, e in run.events
        if isinstance(e, RoundMerged)
    }
    sizes = states_sizes()
    for stage in (1, 2):
        received = served = [0] * 4
        for number in sorted(number for at, number in decided if at == stage):
            event = decided[stage, number]
            places = {island_of[p]: n for n, p in enumerate(event.owners)}
            due = [expected_bytes(event.sections, places[island]) for island in range(4)]
            received = [old + new[0] for old, new in zip(received, due, strict=True)]
            served = [old + new[1] for old, new in zip(served, due, strict=True)]
            # What a round brought stands in the event that it was merged with, by when the next one is due.
            grown = [total[i, stage, number + 1][0] - total[i, stage, 1][0] for i in range(4)]
            assert grown == received
            for island in range(4):
                share = event.sections[places[island]] / 7
                sent = sent_bytes(sizes, share, 4)
                assert abs(due[island][1] - sent) < 0.05 * sizes.payload_bytes
                assert due[island][1] < 0.75 * 3 * sizes.payload_bytes
        assert sum(served) == sum(received)
    newest = max(decided)
    shares = [
        decided[newest].sections[decided[newest].owners.index(p)]
        for p in sorted(decided[newest].owners, key=lambda p: island_of[p])
    ]
    assert sum(shares) == 7 and shares[:2] == [1, 1] and shares[2] == 2 and shares[3] == 3


def states_sizes() -> Sizes:
    codec = round_codec("int4", MIDDLE_ELEMENTS, ())
    return sizes_of(codec, codec, MIDDLE_ELEMENTS)


def expected_bytes(sections: tuple[int, ...], place: int) -> tuple[int, int]:
    """Received and served by the owner at `place` of four, with int4 and without zstd."""
    sizes = []
    for at in range(0, MIDDLE_ELEMENTS, GRAIN_ELEMENTS):
        elements = min(GRAIN_ELEMENTS, MIDDLE_ELEMENTS - at)
        sizes.append(2 + 2 * -(-elements // 256) + -(-elements // 2))
    begin = sum(sections[:place])
    own_bytes = sum(sizes[begin : begin + sections[place]])
    other_bytes = sum(sizes) - own_bytes
    table_bytes = TABLE_ENTRY_BYTES * len(sizes)
    own_table_bytes = TABLE_ENTRY_BYTES * sections[place]
    received = 3 * (own_bytes + table_bytes) + other_bytes + table_bytes - own_table_bytes
    served = other_bytes + 3 * table_bytes + 3 * (own_bytes + own_table_bytes)
    return received, served


REGIONS = ("north", "south", "west")
FAR_BYTES_PER_SECOND = 1e5


def run_far(
    config: RunConfig,
    peers: Sequence[VirtualPeer],
    act: "Callable[[Stage], asyncio.Future[None]]",
) -> VirtualRun:
    """Islands in regions of their own, whose machines are near each other and far from all others."""
    count = range(len(REGIONS))
    network = NetworkProfile(
        description="slow lines between regions",
        source="made up",
        regions=REGIONS,
        one_way_latency_seconds=tuple(tuple(0.02 for _ in count) for _ in count),
        bytes_per_second=tuple(
            tuple(1e8 if a == b else FAR_BYTES_PER_SECOND for b in count) for a in count
        ),
    )
    scenario = Scenario(
        tuple(peers),
        forward_seconds=0.1,
        backward_seconds=0.2,
        stall_seconds=600,
        patience_seconds=200,
        network=network,
    )

    async def main() -> VirtualRun:
        return await play(config, scenario, corpus(), act)

    with asyncio.Runner(loop_factory=MachineLoop) as runner:
        return runner.run(main())


def once_sliced(
    later_seconds: float, act: Callable[[Stage], None]
) -> "Callable[[Stage], asyncio.Future[None]]":
    """`act` so long after the chair of a round of stage 1 had it collected in slices."""

    def script(stage: Stage) -> "asyncio.Future[None]":
        def is_sliced() -> bool:
            return any(
                isinstance(e, Noted) and "stage 1" in e.detail and "in slices" in e.detail
                for _, _, e in stage.run.events
            )

        async def watch() -> None:
            for _ in range(2000):
                if is_sliced():
                    break
                await asyncio.sleep(0.05)
            await asyncio.sleep(later_seconds)
            act(stage)

        return asyncio.ensure_future(watch())

    return script


def reduced_elsewhere(run: VirtualRun) -> set[str]:
    return {
        e.detail.split(":")[0]
        for _, _, e in run.events
        if isinstance(e, Noted) and e.what == "the slice of another peer is reduced here"
    }


@pytest.mark.parametrize(("lost", "later_seconds"), [(0, 1.5), (3, 0.3), (3, 2.5)])
def test_a_round_goes_on_without_an_owner_that_dies_with_its_contribution(
    lost: int, later_seconds: float
) -> None:
    """Nobody else has all of what it contributed, so the round is decided again without it, by those who are left."""
    rates = (200.0, 300.0, 300.0, 200.0)

    def kill(stage: Stage) -> None:
        stage.nemesis.kill(f"{lost}")

    run = run_islands(wide_config(), slow_islands(rates), once_sliced(later_seconds, kill))
    assert finishes(run, 3) and is_agreed(run)
    dead = next(p for _, p, e in run.events if isinstance(e, PeerJoined) and e.name == f"{lost}")
    decided = chosen(run)
    last = decided[1, max(number for stage, number in decided if stage == 1)]
    assert last.owners and dead not in last.owners
    assert last.islands == tuple(sorted({0, 1, 2, 3} - {lost}))


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_lost_owners_slice_is_reduced_by_those_who_want_it(fault: str) -> None:
    """Its sibling has the island's contribution, so the round that was cut for both is decided as it was."""
    whole = (0, 1, 2)
    places = [("0", 0, whole), ("1", 1, whole), ("owner", 1, (1,)), ("third", 1, (0,)), ("2", 2, whole)]  # fmt: skip
    peers = [VirtualPeer(name, at, island=i, region=REGIONS[i]) for name, i, at in places]

    def strike(stage: Stage) -> None:
        if fault == "kill":
            stage.nemesis.kill("owner")
        else:
            stage.nemesis.strike(Fault("freeze", ("owner",), duration_seconds=12.0))

    run = run_far(wide_config(), peers, once_sliced(0.5, strike))
    assert finishes(run, 4 if fault == "kill" else 5) and is_agreed(run)
    lost = next(p for _, p, e in run.events if isinstance(e, PeerJoined) and e.name == "owner")
    assert lost in reduced_elsewhere(run)
    decided = chosen(run).values()
    assert any(lost in e.owners and e.islands == (0, 1, 2) for e in decided)
