"""An island that comes late over a line on which the group's outer state takes longer than a round."""

from types import SimpleNamespace as Fake
from typing import Any

import pytest
import torch

from swarmtrain.core.events import Noted, PeerJoined, RoundMerged
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.virtual import VirtualPeer, VirtualRun
from swarmtrain.outer.director import Place
from swarmtrain.outer.effects import Behind, Effect, SendRound
from swarmtrain.outer.group import RoundGroup
from swarmtrain.peer import group_states
from swarmtrain.peer.group_states import MOST_STATES, GroupStates, _Guest
from swarmtrain.peer.merging import Job, Merging
from tests.experiments.island_worlds import (
    choices,
    config_of,
    is_agreed,
    islands_of,
    run_islands,
)
from tests.experiments.test_round_slices import machine
from tests.experiments.test_rounds import acting, finishes

KILOBYTES_PER_SECOND = 45.0
STATE_BYTES = 8 * 110_784
"""Of a middle stage: parameters and momentum. Both of them take 40 s, a round 22."""
LATE, LATE_SECONDS, ROUNDS = 2, 80.0, 10


def late_island() -> VirtualRun:
    slow = machine(KILOBYTES_PER_SECOND).model_copy(update={"flops_per_second": 2.2e7})
    peers = [
        VirtualPeer(str(island), (0, 1, 2), machine=slow, island=island) for island in range(3)
    ]
    config = config_of(
        "model.width=96", "model.heads=4", "model.kv_heads=4", "model.ffn_width=256",
        "outer.zstd_level=0", "outer.codec=int4", "outer.inner_steps=10", "outer.delay_steps=5",
        steps=92,
    )  # fmt: skip
    late = peers[LATE]
    join = acting(LATE_SECONDS, lambda stage: stage.add(late))
    return run_islands(config, peers[:LATE], join, (late,))


def merged(run: VirtualRun, stage: int) -> list[RoundMerged]:
    """What the island that came late merged."""
    island_of = {p: e.island for _, p, e in run.events if isinstance(e, PeerJoined)}
    found = [(p, e) for _, p, e in run.events if isinstance(e, RoundMerged)]
    return [e for p, e in found if island_of[p] == LATE and e.stage == stage]


def test_it_takes_the_state_once_and_then_the_results_of_the_rounds_since() -> None:
    run = late_island()
    assert finishes(run, 3) and is_agreed(run)
    for stage in (1, 2):
        first, *rest = merged(run, stage)
        assert first.how == "catch_up" and {event.how for event in rest} == {"merge"}
        assert [event.round for event in rest] == list(range(first.round + 1, ROUNDS + 1))
        assert rest[-1].state_received_bytes == STATE_BYTES
        assert choices(run)[stage, 0, ROUNDS - 1].pop()[0] == (0, 1, 2), "it counts at last"


@pytest.mark.parametrize("tries_again", [True, False])
def test_who_cannot_have_a_result_and_is_forgotten_by_those_who_went_on_finds_them(
    tries_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no member, and was lost for a while: they do not greet it. Nor did it greet, as its round was decided."""
    result, advance = Merging.result, RoundGroup.advance
    place = (1, 0)

    async def lacking(self: Merging, job: Job) -> Any:
        cannot = self.states._island == 2 and job.place == place and job.key.round == 0
        return (None, (0,)) if cannot else await result(self, job)

    def forget(self: RoundGroup, *rest: Any) -> list[Effect]:
        effects = advance(self, *rest)
        if self.island != 2 and self.place == place and self.round == 1:
            self._roll.lists.pop(2, None)
            self._roll._strangers.clear()
        return [e for e in effects if not isinstance(e, SendRound) or e.to in self._roll.peers]

    monkeypatch.setattr(Merging, "result", lacking)
    monkeypatch.setattr(RoundGroup, "advance", forget)
    if not tries_again:
        monkeypatch.setattr(RoundGroup, "again", lambda self, now_seconds: [])
    run = run_islands(config_of("outer.delay_steps=1", steps=40), islands_of(3))
    caught_up = [event.round for event in merged(run, 1) if event.how == "catch_up"]
    assert finishes(run, 9) is tries_again and bool(caught_up) is tries_again
    assert is_agreed(run)


def test_without_what_is_kept_for_it_it_would_never_come_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(self: GroupStates, place: Place, current: int) -> int:
        self._copies.pop(place, None)
        return current

    monkeypatch.setattr(GroupStates, "kept_from", nothing)
    run = late_island()
    assert any(isinstance(e, Noted) and "cannot be had" in e.what for _, _, e in run.events)
    counted = [found for key, found in choices(run).items() if key[0] in (1, 2)]
    assert not any(LATE in islands for found in counted for islands, _ in found)


@pytest.mark.parametrize(("number", "may_hear"), [(4, True), (6, False)])
def test_no_state_is_fetched_while_the_result_of_a_round_is_on_its_way(
    number: int, may_hear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than the messages that tell of it. Of rounds further on, at once: nobody tells of them."""
    fetched, now = [], [0.0]
    waits: Any = Fake(patience=4.0)
    kept = GroupStates(None, None, None, waits, None, lambda _: None)  # type: ignore[arg-type]
    monkeypatch.setattr(group_states, "now_seconds", lambda: now[0])
    monkeypatch.setattr(kept, "_fetch_ahead", lambda place, behind: (place, behind))
    monkeypatch.setattr(
        kept, "_tasks", Fake(spawn=lambda work, _: fetched.append(work) or Fake(done=lambda: False))
    )
    group: Any = Fake(round=3, behind=Behind(number, PeerId("a")))
    for now[0] in (0.0, 100.0):
        kept.look((1, 0), group, is_result_coming=True)
    assert not fetched
    kept.advanced((1, 0))
    kept.look((1, 0), group, is_result_coming=False)
    assert bool(fetched) is not may_hear
    now[0] = 104.1
    kept.look((1, 0), group, is_result_coming=False)
    assert fetched == [((1, 0), group.behind)]


def test_that_is_kept_for_who_asks_for_it_and_up_to_so_many_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the round on that the slowest guest is at, or will be at with the state it fetches."""
    place, kept_bytes, now = (1, 0), {"a round": 100}, [0.0]
    state = Fake(parameters=torch.zeros(100), momentum=torch.zeros(100))
    states: Any = Fake(member=lambda _: Fake(state=state))
    payloads: Any = Fake(
        bytes_between=lambda _, first, stop: kept_bytes["a round"] * (stop - first)
    )
    waits: Any = Fake(gather=80.0)
    kept = GroupStates(None, states, payloads, waits, None, lambda _: None)  # type: ignore[arg-type]
    monkeypatch.setattr(group_states, "now_seconds", lambda: now[0])
    assert kept.kept_from(place, 7) == 7
    guests = kept._guests[place] = {PeerId(n): _Guest(r, 0.0) for n, r in (("a", 3), ("b", 5))}
    kept._copies[place] = {3: None, 4: None, 5: None}  # type: ignore[dict-item]
    assert kept.kept_from(place, 7) == 3 and set(kept._copies[place]) == {3, 5}
    kept.heard(place, PeerId("a"), 0)
    assert kept.kept_from(place, 7) == 3, "it speaks of where it was before"
    kept.heard(place, PeerId("a"), 6)
    assert kept.kept_from(place, 7) == 5 and set(kept._copies[place]) == {5}
    kept.heard(place, PeerId("a"), 7)
    assert kept.kept_from(place, 7) == 5 and set(guests) == {"b"}, "the other is there"
    limit = MOST_STATES * 4 * 200 // 100
    assert kept.kept_from(place, 5 + limit) == 5
    assert kept.kept_from(place, 6 + limit) == 6 + limit and not guests
    guests[PeerId("c")] = _Guest(3, 0.0)
    now[0] = 80.1
    assert kept.kept_from(place, 7) == 7 and not kept._copies[place]
