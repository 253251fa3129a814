"""Members that go back to what they saved: every step is in the group's parameters once, whatever was lost."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from swarmtrain.outer.member import FragmentMember, RoundSettings
from swarmtrain.outer.merge import Merged, RoundContribution
from swarmtrain.outer.optimizer import AVERAGE, OuterState
from swarmtrain.outer.residual import Residual
from swarmtrain.outer.stage import StageRounds
from tests.outer.values import fragment

INNER_STEPS, ROUNDS = 3, 12
STEPS = INNER_STEPS * (ROUNDS + 2)
RATE = 1e-3
SETTINGS = RoundSettings(AVERAGE, "fp16")
"""Its differences are small whole numbers, which the codec keeps."""


@dataclass
class Life:
    """What a member saved of itself, or is: `done` are the steps it made, in no life that it went back on."""

    rounds: StageRounds
    local: Tensor
    step: int = 0
    done: set[int] = field(default_factory=set)

    @property
    def member(self) -> FragmentMember:
        return self.rounds.members[0]

    def copy(self, name: int) -> "Life":
        again = StageRounds(name, (fragment(STEPS),), torch.zeros(STEPS), SETTINGS)
        again, _ = again.unpacked(self.rounds.pack([[]]))
        return Life(again, self.local.clone(), self.step, set(self.done))


class Group:
    """Two members that step, send, merge or miss rounds, and go back at random; a third only keeps the state.

    A step sets an element of its own, so the sum of what rounds counted says how often each step was.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        start = OuterState.first(torch.zeros(STEPS), AVERAGE)
        self.keeper = FragmentMember("keeper", fragment(STEPS), start, SETTINGS)
        rounds = [StageRounds(n, (fragment(STEPS),), torch.zeros(STEPS), SETTINGS) for n in (0, 1)]
        for one in rounds:
            one.inner_steps = (
                10  # no newcomers, whose first step is dropped with the parameters it was made on
            )
        self.lives = [Life(one, torch.zeros(STEPS)) for one in rounds]
        self.saved = [life.copy(n) for n, life in enumerate(self.lives)]
        self.pool: dict[str, RoundContribution] = {}
        self.results: list[Merged] = []
        self.counts = {life.member.member: torch.zeros(STEPS) for life in self.lives}
        self.went_back = 0

    def run(self) -> None:
        for _ in range(5000):
            if len(self.results) == ROUNDS:
                break
            number = self.random.randrange(2)
            act: Any = self.random.choice(
                [self.go_on, self.go_on, self.go_on, self.save, self.go_back, self.decide]
            )
            act(number)
        for number in (0, 1):
            while not (self.lives[number].member.is_sent and self.is_front(number)):
                self.go_on(number)
        self.decide(0, {life.member.member for life in self.lives})

    def is_front(self, number: int) -> bool:
        return self.lives[number].member.state.round == len(self.results)

    def go_on(self, number: int) -> None:
        """What the island's decisions would have it do next."""
        life = self.lives[number]
        member, at = life.member, life.member.state.round
        due = (at + 1) * INNER_STEPS
        if at < len(self.results):
            # At once, so that no life makes steps that an earlier one, which is counted, went past.
            self.follow(life, number)
        elif life.step >= due and not member.is_sent:
            sent = life.rounds.send(0, life.local, RATE)
            if sent is not None:
                self.pool.setdefault(member.member, sent[0])
        elif life.step < due + (INNER_STEPS - 1) * member.is_sent and life.step < STEPS:
            life.local[life.step] += 1
            life.done.add(life.step)
            life.step += 1
            life.rounds.stepped(1)

    def follow(self, life: Life, number: int) -> None:
        """Merge the next result; or, as it cannot be had any more, take the group's state."""
        at = life.member.state.round
        if at == len(self.results) - 1 or self.random.random() < 0.5:
            life.rounds.merge(0, self.results[at], life.local)
        else:
            state, counted = self.keeper.state.copy(), self.keeper.counted
            life.rounds.catch_up(0, state, counted, life.local)
        life.step = max(life.step, life.member.state.round * INNER_STEPS)

    def save(self, number: int) -> None:
        self.saved[number] = self.lives[number].copy(number)

    def go_back(self, number: int) -> None:
        """To what was saved; what was offered may be lost as well."""
        if self.random.random() < 0.3:
            self.lives[number] = self.saved[number].copy(number)
            self.went_back += 1
            if self.random.random() < 0.7:
                self.pool.pop(self.lives[number].member.member, None)

    def decide(self, _: int, wanted: set[str] | None = None) -> None:
        """Count what was offered, or some of it; nothing, where all that was made is lost."""
        gathering = self.keeper.gathering()
        for name, contribution in self.pool.items():
            if contribution.tag == gathering.tag and (wanted or self.random.random() < 0.7):
                gathering.add(contribution)
                self.counts[name] -= contribution.values
        is_all_made = all(
            life.member.is_sent and self.is_front(n) for n, life in enumerate(self.lives)
        )
        if wanted is None and not gathering.members and not is_all_made:
            return
        self.pool.clear()
        merged = gathering.merged()
        self.results.append(merged)
        self.keeper.merge(merged, torch.zeros(STEPS), 0)

    def faults(self) -> int:
        """Steps that are counted twice, or made and never counted."""
        twice = sum(int((counts > 1.5).sum()) for counts in self.counts.values())
        lost = sum(
            int(self.counts[life.member.member][step] < 0.5)
            for life in self.lives
            for step in life.done
        )
        return twice + lost


def faults_of(seeds: range) -> int:
    torch.set_num_threads(1)
    found = back = 0
    for seed in seeds:
        group = Group(seed)
        group.run()
        found, back = found + group.faults(), back + group.went_back
    assert back > len(seeds)
    return found


def test_every_step_counts_once_whatever_is_lost_and_done_again() -> None:
    assert faults_of(range(60)) == 0


def took_for_counted(self: FragmentMember, state: Any, counted: Any, local: Any, clock: int) -> str:
    last = self.state.round
    return REAL_CATCH_UP(self, state, {**counted, self.member: last}, local, clock)


def took_for_lost(self: FragmentMember, state: Any, counted: Any, local: Any, clock: int) -> str:
    return REAL_CATCH_UP(self, state, {}, local, clock)


REAL_CATCH_UP = FragmentMember.catch_up


@pytest.mark.parametrize("mutant", [took_for_counted, took_for_lost])
def test_who_does_not_ask_what_was_counted_loses_steps_or_counts_them_twice(
    mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FragmentMember, "catch_up", mutant)
    assert faults_of(range(25))


def test_who_went_back_does_not_send_again_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FragmentMember, "counts_earlier_life", lambda self, merged: False)
    assert faults_of(range(25))


def test_what_a_round_left_out_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Residual, "restore", lambda self, decoded: None)
    assert faults_of(range(25))
