"""When rounds are due: one order for all, nothing twice, at most one round of a fragment under way, a common end."""

import itertools
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.errors import ConfigError
from swarmtrain.outer.rounds import Due, Pace, Rhythm, fragment_bounds


@st.composite
def rhythms(draw) -> Rhythm:
    inner_steps = draw(st.integers(1, 12))
    return Rhythm(
        steps=draw(st.integers(1, 60)),
        stages=draw(st.integers(1, 3)),
        inner_steps=inner_steps,
        fragments=draw(st.integers(1, 4)),
        delay_steps=draw(st.integers(0, inner_steps)),
        staggered=draw(st.booleans()),
    )


def all_due(rhythm: Rhythm) -> list[Due]:
    return [due for step in range(rhythm.steps + 1) for due in rhythm.due(step)]


def by_fragment(entries: list[Due]) -> dict[tuple[int, int], list[Due]]:
    found = defaultdict(list)
    for entry in entries:
        found[entry.stage, entry.fragment].append(entry)
    return found


@given(rhythms())
def test_every_round_is_sent_once_and_then_merged_before_the_next(rhythm: Rhythm) -> None:
    fragments = by_fragment(all_due(rhythm))
    assert len(fragments) == (rhythm.stages + 1) * rhythm.fragments
    for (stage, fragment), entries in fragments.items():
        count = rhythm.rounds(stage, fragment)
        assert [(entry.round, entry.kind) for entry in entries] == [
            (number, kind) for number in range(count) for kind in ("send", "merge")
        ]


@given(rhythms())
def test_the_run_ends_with_a_round_of_everything_and_nothing_under_way(rhythm: Rhythm) -> None:
    for entries in by_fragment(all_due(rhythm)).values():
        assert [entry.step for entry in entries[-2:]] == [last_send(rhythm), rhythm.steps]
        assert all(entry.step <= last_send(rhythm) for entry in entries[:-2])
        assert all(entry.step < last_send(rhythm) for entry in entries[:-2] if not entry.is_merge)


def last_send(rhythm: Rhythm) -> int:
    """A late result needs a step to come in, unless the run has but one."""
    return rhythm.steps - (1 if rhythm.delay_steps and rhythm.steps > 1 else 0)


@given(rhythms())
def test_rounds_are_as_far_apart_and_as_late_as_said(rhythm: Rhythm) -> None:
    for (stage, fragment), entries in by_fragment(all_due(rhythm)).items():
        sends = [entry.step for entry in entries if not entry.is_merge]
        assert 1 <= sends[0] <= rhythm.inner_steps
        assert all(b - a == rhythm.inner_steps for a, b in itertools.pairwise(sends[:-1]))
        for entry in entries:
            if entry.is_merge:
                is_last = entry.round == len(sends) - 1
                latest = rhythm.steps if is_last else last_send(rhythm)
                assert entry.step == min(latest, sends[entry.round] + rhythm.delay_steps)
                assert entry.step == rhythm.merge_step(stage, fragment, entry.round)
        for step in range(last_send(rhythm)):
            number = rhythm.next_round(stage, fragment, step)
            later = [n for n, at in enumerate(sends) if at > step]
            assert number == later[0]


@given(rhythms(), st.lists(st.integers(0, 60), max_size=8))
def test_whoever_looks_less_often_does_the_same_in_the_same_order(rhythm, looks) -> None:
    """A slow island, which does what is due between its steps at once."""
    marks = sorted({0, *(look for look in looks if look <= rhythm.steps), rhythm.steps + 1})
    found = [due for a, b in itertools.pairwise(marks) for due in rhythm.due(a, b)]
    assert found == all_due(rhythm)


def test_fragments_and_stages_take_turns() -> None:
    plain = Rhythm(100, 2, 12, fragments=3)
    assert [plain.offset(stage, 1) for stage in range(3)] == [4, 4, 4]
    assert [plain.offset(0, fragment) for fragment in range(3)] == [0, 4, 8]
    turns = Rhythm(100, 2, 12, fragments=2, staggered=True)
    offsets = [turns.offset(stage, fragment) for fragment in range(2) for stage in range(3)]
    assert offsets == [0, 2, 4, 6, 8, 10]
    crowded = Rhythm(100, 2, 2, fragments=2, staggered=True)
    assert [crowded.offset(stage, f) for f in range(2) for stage in range(3)] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        dict(inner_steps=0),
        dict(delay_steps=11),
        dict(delay_steps=-1),
        dict(fragments=0),
    ],
)
def test_rounds_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Rhythm(**{"steps": 100, "stages": 2, "inner_steps": 10, **wrong})


@given(st.integers(1, 30).flatmap(lambda h: st.tuples(st.just(h), st.integers(1, h))))
def test_a_pace_fills_every_round_with_its_own_steps(lengths: tuple[int, int]) -> None:
    inner_steps, own_steps = lengths
    pace = Pace(inner_steps, own_steps)
    starts = [pace.start(own) for own in range(3 * own_steps + 1)]
    assert starts[0] == 0 and starts[own_steps] == inner_steps and starts == sorted(set(starts))
    ended = {step: pace.ending(step) for step in range(1, 3 * inner_steps + 1)}
    assert {b: a for a, b in itertools.pairwise(starts)} == {
        step: start for step, start in ended.items() if start is not None
    }


def test_the_fastest_island_takes_every_step() -> None:
    assert [Pace(7, 7).ending(step) for step in range(1, 20)] == list(range(19))
    for own_steps in (0, 8):
        with pytest.raises(ConfigError):
            Pace(7, own_steps)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.data())
def test_fragments_cover_a_stage_between_tensors(lengths: list[int], data) -> None:
    offsets = [sum(lengths[:index]) for index in range(len(lengths))]
    elements = sum(lengths)
    fragments = data.draw(st.integers(1, len(lengths)))
    bounds = fragment_bounds(offsets, elements, fragments)
    assert len(bounds) == fragments and bounds[0][0] == 0 and bounds[-1][1] == elements
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    assert all(start < stop and start in offsets for start, stop in bounds)
    largest = max(lengths)
    assert all(stop - start <= elements / fragments + 2 * largest for start, stop in bounds)
    with pytest.raises(ConfigError):
        fragment_bounds(offsets, elements, len(lengths) + 1)
