"""Whether and how a round is cut: arithmetic, and the bits that must not depend on it."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.errors import StateError
from swarmtrain.core.rounds import Choice, Counted, GroupMember, Slice
from swarmtrain.core.types import PeerId
from swarmtrain.outer import payload
from swarmtrain.outer.merge import Form, Gathering, RoundContribution, RoundTag
from swarmtrain.outer.parcel import Table
from swarmtrain.outer.payload import (
    GRAIN_ELEMENTS,
    MOST_MAGNITUDE,
    answer_codec,
    answered,
    may_be_sliced,
    mean_sections,
    parcel_bounds,
    round_codec,
    sections_of,
    sizes_of,
    slice_elements,
    values_of,
)
from swarmtrain.outer.slices import (
    LEAST_SAVING,
    Owner,
    Sizes,
    assumed,
    bounds,
    check,
    mean_name,
    plan,
    sent_bytes,
    shares,
)
from swarmtrain.wire.codecs import CODECS
from tests.outer.values import normal, same_bits

LARGE = Sizes(1000, 400_000_000, 400_000_000)
DENSE = [name for name, codec in CODECS.items() if not codec.gathers]


def owners(*rates: float) -> list[Owner]:
    return [Owner(PeerId(f"p{at}"), at, rate) for at, rate in enumerate(rates)]


# ---- whether --------------------------------------------------------------------------------------------------------


def test_two_islands_gather_and_more_do_not() -> None:
    """With two, slices send as much and round once more; from three on they save a third, and then half."""
    assert not plan(LARGE, owners(0, 0), 2).slices
    for count in (3, 4, 8):
        found = plan(LARGE, owners(*[0.0] * count), count)
        assert [cut.sections for cut in found.slices] == list(shares(1000, [1.0] * count))
        assert "in slices" in found.reason


def test_small_contributions_are_gathered() -> None:
    small = Sizes(10, 400_000, 400_000)
    found = plan(small, owners(0, 0, 0, 0), 4)
    assert not found.slices and found.reason.startswith("gathered: ")
    assert plan(small, owners(1e5, 1e5, 1e5, 1e5), 4).slices, "but not over a slow line"
    assert not plan(Sizes(3, 10**9, 10**9), owners(0, 0, 0, 0), 4).slices


def test_codecs_that_see_the_whole_are_gathered() -> None:
    codec = round_codec("top64", 10**6, ((0, (1000, 1000)),))
    assert not plan(sizes_of(codec, codec, 10**6), owners(1e3, 1e3, 1e3, 1e3), 4).slices


def test_ternary_is_cut_once_its_larger_means_pay() -> None:
    elements = 10**9
    ternary, int4 = (
        round_codec(name, elements, ()) for name in ("ternary", answer_codec("ternary"))
    )
    sizes = sizes_of(ternary, int4, elements)
    assert sizes.mean_bytes > 2 * sizes.payload_bytes
    assert not plan(sizes, owners(*[0.0] * 4), 4).slices
    assert plan(sizes, owners(*[0.0] * 8), 8).slices


@settings(deadline=None)
@given(st.lists(st.floats(1e5, 1e9), min_size=2, max_size=8))
def test_slices_are_never_chosen_where_they_take_longer(rates: list[float]) -> None:
    found, count = plan(LARGE, owners(*rates), len(rates)), len(rates)
    if found.slices:
        sections = {cut.peer: cut.sections for cut in found.slices}
        sliced = max(
            sent_bytes(LARGE, sections.get(PeerId(f"p{at}"), 0) / 1000, count) / rate
            for at, rate in enumerate(rates)
        )
        assert sliced <= (1 - LEAST_SAVING) * (count - 1) * LARGE.payload_bytes / min(rates)


# ---- how ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 5000), st.lists(st.floats(1.0, 1e12), min_size=1, max_size=16))
def test_shares_go_by_uplink_and_cover_everything(sections: int, rates: list[float]) -> None:
    taken = shares(sections, rates)
    assert sum(taken) == sections
    for share, rate in zip(taken, rates, strict=True):
        assert abs(share - sections * rate / sum(rates)) < 1 + 1e-6


def test_uplinks_set_the_shares() -> None:
    found = plan(LARGE, owners(1.25e6, 6.25e6, 6.25e6, 12.5e6), 4)
    assert [cut.sections for cut in found.slices] == [48, 238, 238, 476]


def test_who_was_not_measured_counts_as_the_mean_of_the_others() -> None:
    assert assumed(owners(1e6, 0, 3e6)) == {"p0": 1e6, "p1": 2e6, "p2": 3e6}
    assert len(set(assumed(owners(0, 0)).values())) == 1
    assert assumed(owners(-1.0, 1e300, 5e6)) == {"p0": 5e6, "p1": 5e6, "p2": 5e6}, "of no line"


def test_an_islands_replicas_share_its_part() -> None:
    peers = [Owner(PeerId(f"{island}{at}"), island, 0.0) for island in range(3) for at in range(2)]
    found = plan(LARGE, peers, 3)
    assert len(found.slices) == 6 and {cut.sections for cut in found.slices} == {166, 167}


def test_a_hopelessly_slow_owner_gets_nothing() -> None:
    found = plan(LARGE, owners(1e3, 1e9, 1e9, 1e9), 4)
    assert [cut.peer for cut in found.slices] == ["p1", "p2", "p3"]


def choice_of(slices: tuple[Slice, ...], tokens: int = 10) -> Choice:
    counted = tuple(Counted(island, tokens, b"of %d" % island) for island in range(2))
    return Choice(counted, (GroupMember(0, 1),), b"", slices)


def test_slices_follow_each_other() -> None:
    cut = (Slice(PeerId("a"), 3), Slice(PeerId("b"), 1), Slice(PeerId("c"), 2))
    assert bounds(cut) == [(0, 3), (3, 4), (4, 6)]
    check(choice_of(cut), 6)


@pytest.mark.parametrize("sections", [(3, 4), (3, 2), (6, 0), (7, -1)])
def test_slices_that_make_no_sense_are_refused(sections: tuple[int, ...]) -> None:
    cut = tuple(Slice(PeerId("a"), count) for count in sections)
    with pytest.raises(StateError):
        check(choice_of(cut), 6)


def test_without_tokens_there_is_no_mean() -> None:
    with pytest.raises(StateError):
        check(choice_of((Slice(PeerId("a"), 6),), tokens=0), 6)


def test_the_name_of_a_mean_says_all_that_it_depends_on() -> None:
    cut = (Slice(PeerId("a"), 3), Slice(PeerId("b"), 3))
    names = [
        mean_name(choice, number)
        for choice in (
            choice_of(cut),
            choice_of(cut, tokens=11),
            choice_of(cut[::-1]),
            choice_of((Slice(PeerId("a"), 2), Slice(PeerId("b"), 4))),
        )
        for number in range(2)
    ]
    assert len(set(names)) == len(names)


# ---- bits -----------------------------------------------------------------------------------------------------------

ELEMENTS = 3 * GRAIN_ELEMENTS + 1000


def contributions(codec_name: str, count: int) -> list[RoundContribution]:
    codec = round_codec(codec_name, ELEMENTS, ())
    form = Form.of(codec)
    tag = RoundTag(1, 0, 0, b"base", form)
    return [
        RoundContribution(
            f"island-{at:04d}",
            tag,
            10 + at,
            values_of(sections_of(normal(ELEMENTS, at) * 1e-3, codec, 3), codec, ELEMENTS),
        )
        for at in range(count)
    ]


def mean_of(entries: list[RoundContribution], start: int, stop: int) -> Gathering:
    gathering = Gathering(entries[0].tag, stop - start)
    for entry in entries:
        part = RoundContribution(entry.member, entry.tag, entry.tokens, entry.values[start:stop])
        gathering.add(part)
    return gathering


@pytest.mark.parametrize("name", DENSE)
def test_whoever_owns_which_slice_the_result_is_the_same_to_the_bit(name: str) -> None:
    """In whatever order contributions came, too; and what travels is the same bytes."""
    entries = contributions(name, 3)
    answer = round_codec(answer_codec(name), ELEMENTS, ())
    whole, _ = answered(mean_of(entries, 0, ELEMENTS).merged(), answer, 3)
    assert whole.values is not None
    travelled = set()
    for cuts in ([], [1], [2], [1, 2, 3]):
        means = []
        for sections in itertools.pairwise([0, *cuts, 4]):
            start, stop = slice_elements(sections, ELEMENTS)
            merged = mean_of(entries[::-1], start, stop).merged()
            means += mean_sections(merged, answer, 3)
        travelled.add(Table.of(means).digest)
        assert same_bits(values_of(means, answer, ELEMENTS), whole.values)
    assert len(travelled) == 1


def test_without_a_loss_the_mean_of_slices_is_the_mean_itself() -> None:
    entries = contributions("none", 3)
    plain = mean_of(entries, 0, ELEMENTS).merged()
    through, _ = answered(plain, round_codec("none", ELEMENTS, ()), 3)
    assert plain.values is not None and through.values is not None
    assert same_bits(plain.values, through.values)


@pytest.mark.parametrize(("name", "most"), [("int4", 0.03), ("int8", 3e-4), ("ternary", 0.03)])
def test_the_means_codec_adds_little_error(name: str, most: float) -> None:
    """Of squared error over squared norm, beside what the contributions' own codec costs."""
    entries = contributions(name, 4)
    plain = mean_of(entries, 0, ELEMENTS).merged()
    answer = round_codec(answer_codec(name), ELEMENTS, ())
    once_more, _ = answered(plain, answer, 3)
    assert plain.values is not None and once_more.values is not None
    error = (once_more.values - plain.values).square().sum() / plain.values.square().sum()
    assert 0 < float(error) < most


@pytest.mark.parametrize("name", [name for name in DENSE if name != "fp16"])
@settings(max_examples=20, deadline=None)
@given(exponent=st.integers(-140, 120), seed=st.integers(0, 99))
def test_means_of_all_sizes_fit_their_codec(name: str, exponent: int, seed: int) -> None:
    values = torch.tanh(normal(600, seed)) * 2.0**exponent
    assert may_be_sliced(values)
    codec = round_codec(answer_codec(name), 600, ())
    assert values_of(sections_of(values, codec, 0), codec, 600).isfinite().all()


def test_what_a_mean_might_not_hold_is_refused() -> None:
    for bad in (2 * MOST_MAGNITUDE, float("inf"), float("nan")):
        assert not may_be_sliced(torch.tensor([0.0, bad]))
    largest = torch.full((256,), torch.finfo(torch.float32).max)
    codec = round_codec("int4", 256, ())
    assert not values_of(sections_of(largest, codec, 0), codec, 256).isfinite().all()


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("zstd_level", [0, 3])
def test_sections_are_within_their_bounds(name: str, zstd_level: int) -> None:
    elements = 2 * GRAIN_ELEMENTS + 999
    codec = round_codec(name, elements, ((0, (GRAIN_ELEMENTS // 64, 64)), (GRAIN_ELEMENTS, (999,))))
    x = normal(elements, 1)
    x[GRAIN_ELEMENTS + 999 :] = 0
    sections = sections_of(x, codec, zstd_level)
    assert Table.read(Table.of(sections).encoded(), parcel_bounds(codec, elements))
    if not codec.gathers:
        assert len(sections) == 3
        if not zstd_level:
            assert sum(map(len, sections)) == codec.encoded_bytes(elements)


def test_large_payloads_that_cannot_be_cut_travel_in_sections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payload, "SECTION_BYTES", 100)
    codec = round_codec("top64", 6400, ((0, (80, 80)),))
    x = normal(6400, 1)
    sections = sections_of(x, codec, 3)
    assert len(sections) > 1 and max(map(len, sections)) == 100
    decoded = values_of(sections, codec, 6400)
    monkeypatch.undo()
    assert same_bits(decoded, values_of(sections_of(x, codec, 0), codec, 6400))
