"""A member's rounds: exact averages, all ways to follow a late result, lost and late payloads, stale members."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swarmtrain.core.errors import StateError
from swarmtrain.outer.member import (
    FragmentMember,
    RoundSettings,
    close,
    cut_stage,
    follow,
)
from swarmtrain.outer.merge import Merged
from swarmtrain.outer.optimizer import AVERAGE, DILOCO, SHORT, OuterState
from tests.outer.values import EXACT, flats, fragment, member, normal, random_bits, same_bits

MANY = 1000
RATE = 1e-3


def one_round(
    members: list[FragmentMember],
    ends: list[Tensor],
    tokens: list[int],
    late: int = 0,
    missing: frozenset[str] = frozenset(),
) -> Merged:
    """Send, take `late` steps that change nothing, merge; `missing` contributions arrive too late."""
    gathering = members[0].gathering()
    for one, end, weight in zip(members, ends, tokens, strict=True):
        sent = one.send(end, weight, 1, RATE)
        if sent is not None and one.member not in missing:
            gathering.add(sent[0])
    merged, _ = close(gathering, members[0]._settings, members[0].fragment)
    for one, end in zip(members, ends, strict=True):
        one.merge(merged, end, 1 + late)
    return merged


# ---- exactness ------------------------------------------------------------------------------------------------------


@given(flats(6), flats(6), st.integers(1, 1 << 40), st.integers(0, 3))
def test_alone_with_plain_averages_no_bit_changes(start, end, tokens, late) -> None:
    """One island of any H, delayed or not, is synchronous training: rounds leave its parameters as they are."""
    one, local = member("a", start), end.clone()
    one_round([one], [local], [tokens], late)
    assert same_bits(local, end) and same_bits(one.state.parameters, end)


def test_and_none_does_over_all_exponents() -> None:
    one, end = member("a", random_bits(100_000, 1)), random_bits(100_000, 2)
    local = end.clone()
    one_round([one], [local], [512])
    assert same_bits(local, end)


def test_written_as_a_difference_bits_would_change() -> None:
    start, end = random_bits(MANY, 1), random_bits(MANY, 2)
    assert not same_bits(start - (start - end), end)


@settings(max_examples=25)
@given(
    st.integers(2, 5),
    st.sampled_from(["none", "fp16", "int4", "ternary", "rank8", "top64"]),
    st.sampled_from([AVERAGE, SHORT, DILOCO]),
    st.sampled_from([None, 0.5]),
    st.integers(0, 1),
    st.booleans(),
)
def test_identical_members_equal_one(count, codec, optimizer, factor, late, answers) -> None:
    answer = codec if answers and codec not in ("rank8", "top64") else None
    settings_ = RoundSettings(optimizer, codec, answer, merge_factor=factor)

    def run(names: int) -> list[Tensor]:
        members = [member(f"m{i}", normal(MANY, 1), settings_) for i in range(names)]
        locals_ = [normal(MANY, 1) for _ in range(names)]
        for number in range(3):
            for local in locals_:
                local.add_(0.1 * normal(MANY, 10 + number))
            one_round(members, locals_, [512] * names, late)
        assert len({one.state.digest() for one in members}) == 1
        return [members[-1].state.parameters, locals_[-1]]

    for alone, among in zip(run(1), run(count), strict=True):
        assert same_bits(alone, among)


@pytest.mark.parametrize("codec", ["none", "int4", "top64"])
def test_members_that_differ_end_equal(codec: str) -> None:
    settings_ = RoundSettings(DILOCO, codec)
    members = [member(name, normal(MANY, 1), settings_) for name in "cab"]
    for number in range(4):
        ends = [one.state.parameters + 0.1 * normal(MANY, 50 * number + i)
                for i, one in enumerate(members)]  # fmt: skip
        one_round(members, ends, [512, 1024, 256])
        assert len({one.state.digest() for one in members}) == 1
        assert all(same_bits(end, members[0].state.parameters) for end in ends)


# ---- following a late result ----------------------------------------------------------------------------------------


def followed(factor: float | None, has_moved: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """sent from, own progress since, outer, and what became of the local parameters."""
    sent, progress, outer = normal(MANY, 1), 0.1 * normal(MANY, 2), normal(MANY, 3)
    local = sent + progress
    follow(local, sent.clone(), outer, has_moved, replace(EXACT, merge_factor=factor))
    return sent, progress, outer, local


def test_local_progress_is_carried_on_top() -> None:
    _, progress, outer, local = followed(None)
    assert torch.allclose(local, outer + progress, atol=1e-5)


def test_the_merge_factor_mixes() -> None:
    sent, progress, outer, local = followed(0.25)
    assert torch.allclose(local, 0.25 * (sent + progress) + 0.75 * outer, atol=1e-6)
    assert same_bits(followed(0.0)[3], followed(0.0)[2])


def test_who_has_not_moved_takes_the_result_itself() -> None:
    sent, progress, outer, local = followed(None, has_moved=False)
    assert same_bits(local, outer)
    end = sent + progress
    assert not same_bits(end - (end - outer), outer), "the other rule is only nearly the same"


def test_parameters_that_are_not_finite_are_not_carried_on() -> None:
    local, outer = torch.tensor([1.0, float("nan")]), torch.tensor([2.0, 3.0])
    follow(local, torch.zeros(2), outer, True, EXACT)
    assert same_bits(local, outer)


def test_delayed_rounds_count_every_step_once() -> None:
    """Two members with constant steps, one round late: outer parameters move by the mean of all steps but the last."""
    steps = [torch.full((4,), 1.0), torch.full((4,), 3.0)]
    members = [member(name, torch.zeros(4)) for name in "ab"]
    locals_ = [torch.zeros(4) for _ in members]
    under_way = None
    for number in range(1, 6):
        for local, step in zip(locals_, steps, strict=True):
            local.add_(step)
        if under_way is not None:
            for one, local in zip(members, locals_, strict=True):
                one.merge(under_way, local, number)
        gathering = members[0].gathering()
        for one, local in zip(members, locals_, strict=True):
            gathering.add(one.send(local, 1, number, RATE)[0])
        under_way = gathering.merged()
    assert torch.equal(members[0].state.parameters, torch.full((4,), 2.0 * 4))
    # Each is at the common place and its own last step beyond it.
    assert [float(local[0]) for local in locals_] == [9.0, 11.0]


# ---- who misses a round, who saw nothing, who comes late ------------------------------------------------------------


@pytest.mark.parametrize("codec", ["none", "fp16"])
def test_a_payload_that_missed_the_list_goes_with_the_next(codec: str) -> None:
    """Both rounds together move the group as if it had arrived at once."""
    settings_ = RoundSettings(AVERAGE, codec)
    members = [member(name, torch.zeros(4), settings_) for name in "ab"]
    ends = [torch.full((4,), 1.0), torch.full((4,), 3.0)]
    merged = one_round(members, ends, [1, 1], missing=frozenset("b"))
    assert merged.members == ("a",) and all(torch.equal(end, torch.ones(4)) for end in ends)
    ends = [torch.full((4,), 1.0), torch.full((4,), 1.0)]
    one_round(members, ends, [1, 1])
    assert torch.allclose(members[0].state.parameters, torch.full((4,), 2.5))
    assert members[1].sender.residual.value.count_nonzero() == 0


def test_a_member_without_tokens_sends_nothing_keeps_its_residual_and_follows() -> None:
    members = [member(name, torch.zeros(4)) for name in "ab"]
    ends = [torch.ones(4), torch.full((4,), 3.0)]
    one_round(members, ends, [1, 1], missing=frozenset("b"))
    drifted = [torch.full((4,), 2.0), torch.full((4,), 9.0)]
    merged = one_round(members, drifted, [1, 0])
    assert merged.members == ("a",)
    assert all(torch.equal(end, torch.full((4,), 2.0)) for end in drifted)
    assert torch.equal(members[1].sender.residual.value, torch.full((4,), -3.0))


@pytest.mark.parametrize("settings_", [EXACT, RoundSettings(DILOCO, "int4")])
def test_nobody_with_tokens_leaves_the_outer_parameters(settings_: RoundSettings) -> None:
    members = [member(name, normal(MANY, 1), settings_) for name in "ab"]
    ends = [normal(MANY, 2), normal(MANY, 3)]
    one_round(members, ends, [0, 0])
    for one, end in zip(members, ends, strict=True):
        assert same_bits(one.state.parameters, normal(MANY, 1)) and same_bits(end, normal(MANY, 1))
        assert (one.state.round, one.state.steps) == (1, 0)


def test_a_diverged_member_is_left_out_and_comes_back() -> None:
    members = [member(name, torch.zeros(4)) for name in "ab"]
    ends = [torch.ones(4), torch.full((4,), float("nan"))]
    merged = one_round(members, ends, [1, 1], late=1)
    assert merged.members == ("a",) and all(torch.equal(end, torch.ones(4)) for end in ends)


def stale_and_fresh() -> tuple[FragmentMember, FragmentMember]:
    """`b` heard nothing of a round in which `a` moved from 0 to 1."""
    fresh, stale = (member(name, torch.zeros(4)) for name in "ab")
    one_round([fresh], [torch.ones(4)], [1])
    return stale, fresh


def test_a_contribution_against_old_parameters_is_refused() -> None:
    stale, fresh = stale_and_fresh()
    sent = stale.send(torch.full((4,), 0.5), 1, 1, RATE)
    with pytest.raises(StateError, match="round and base differ"):
        fresh.gathering().add(sent[0])
    # Even when it claims to know the round.
    stale.state.round = fresh.state.round
    with pytest.raises(StateError, match="base differ"):
        fresh.gathering().add(stale.send(torch.full((4,), 0.5), 1, 2, RATE)[0])


def test_a_result_against_other_parameters_is_refused_and_changes_nothing() -> None:
    stale, fresh = stale_and_fresh()
    local = torch.full((4,), 0.5)
    gathering = fresh.gathering()
    gathering.add(fresh.send(torch.full((4,), 2.0), 1, 2, RATE)[0])
    before = stale.state.digest()
    with pytest.raises(StateError, match="cannot be merged"):
        stale.merge(gathering.merged(), local, 2)
    assert stale.state.digest() == before and torch.equal(local, torch.full((4,), 0.5))


def test_a_joiner_with_another_momentum_is_found_out_before_the_round() -> None:
    settings_ = RoundSettings(DILOCO, "none")
    old = member("a", normal(MANY, 1), settings_)
    one_round([old], [normal(MANY, 2)], [1])
    forgetful = OuterState(old.state.parameters.clone(), torch.zeros(MANY), 1, 1)
    joined = FragmentMember("b", fragment(MANY), forgetful, settings_)
    with pytest.raises(StateError, match="its base differ"):
        old.gathering().add(joined.send(normal(MANY, 3), 1, 1, RATE)[0])
    whole = FragmentMember("b", fragment(MANY), old.state.copy(), settings_)
    old.gathering().add(whole.send(normal(MANY, 3), 1, 1, RATE)[0])


@pytest.mark.parametrize("was_counted", [True, False])
def test_catching_up_takes_nothing_back_from_the_others(was_counted: bool) -> None:
    """What one open server does on a retry: it measures the old local parameters against the new outer ones, and so
    takes back what the others did. Here the group goes on by just what the late member had done itself."""
    stale, fresh = member("b", torch.zeros(4)), member("a", torch.zeros(4))
    local = torch.full((4,), 0.5)
    stale.send(local, 1, 1, RATE)
    local += 0.25  # a step later the link breaks
    one_round([fresh], [torch.full((4,), 10.0)], [1])
    counted = {"a": 0, "b": 0} if was_counted else {"a": 0}
    stale.catch_up(fresh.state.copy(), counted, local, 2)
    assert torch.equal(local, torch.full((4,), 10.0))
    own = 0.25 if was_counted else 0.75
    assert torch.equal(stale.sender.residual.value, torch.full((4,), -own))
    merged = one_round([stale], [local], [1])
    assert merged.values is not None and torch.equal(merged.values, torch.full((4,), 10.0 + own))


def test_who_joins_while_a_round_is_under_way_gets_its_result() -> None:
    """It must take the result that is still to come, or it is a round behind for good."""
    old = member("a", torch.zeros(4))
    local = torch.full((4,), 1.0)
    gathering = old.gathering()
    gathering.add(old.send(local, 1, 1, RATE)[0])
    joined = FragmentMember("b", fragment(4), old.state.copy(), EXACT)
    theirs = torch.full((4,), 0.125)  # has moved by itself from the outer parameters, zero
    for one, values in ((old, local), (joined, theirs)):
        one.merge(gathering.merged(), values, 2)
    assert old.state.digest() == joined.state.digest()
    assert torch.equal(theirs, torch.full((4,), 1.125))


def test_residuals_follow_the_learning_rate_under_momentum_alone() -> None:
    for optimizer, share in ((DILOCO, 0.5), (AVERAGE, 1.0)):
        one = member("a", torch.zeros(4), RoundSettings(optimizer, "fp16"))
        one_round([one], [torch.ones(4)], [1], missing=frozenset("a"))
        sent = one.send(torch.zeros(4), 1, 2, RATE / 2)
        assert sent is not None and torch.equal(sent[0].values, torch.full((4,), -share))


def test_a_stage_is_cut_with_its_tensors() -> None:
    tensors = [(0, (4, 4)), (16, (16,)), (32, (8, 8))]
    first, second = cut_stage(3, tensors, [(0, 32), (32, 96)])
    assert (first.stage, first.number, first.elements) == (3, 0, 32)
    assert first.tensors == ((0, (4, 4)), (16, (16,)))
    assert second.elements == 64 and second.tensors == ((0, (8, 8)),)
