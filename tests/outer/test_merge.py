"""The merge of a round: the same bits in any order and any slices, tokens as weights, and what is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swarmtrain.core.errors import StateError, WireError
from swarmtrain.outer import merge as merge_module
from swarmtrain.outer.merge import (
    MAX_TOKENS,
    Form,
    Gathering,
    RoundContribution,
    weighted_mean,
)
from swarmtrain.wire.codecs import CODECS
from tests.outer.values import contribution, flats, normal, random_bits, same_bits, tag

ELEMENTS = 12
TOKENS = st.integers(1, MAX_TOKENS)
WEIGHED = st.lists(st.tuples(TOKENS, flats(ELEMENTS)), min_size=1, max_size=6).map(
    lambda entries: [
        contribution(f"m{index}", values, tokens) for index, (tokens, values) in enumerate(entries)
    ]
)


def mean_of(contributions: list[RoundContribution]) -> Tensor:
    gathering = Gathering(tag(), contributions[0].values.numel())
    for entry in contributions:
        gathering.add(entry)
    values = gathering.merged().values
    assert values is not None
    return values


def cut(entry: RoundContribution, start: int, stop: int) -> RoundContribution:
    return replace(entry, values=entry.values[start:stop])


@given(WEIGHED, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(contributions, random) -> None:
    shuffled = list(contributions)
    random.shuffle(shuffled)
    mean = mean_of(contributions)
    assert same_bits(mean_of(shuffled), mean)
    assert same_bits(weighted_mean(shuffled), mean), "even where nobody gathers them first"


def test_the_order_would_matter_without_the_order_of_members(monkeypatch) -> None:
    """2^60 + 1 - 2^60: what fixed order is for."""
    huge = torch.tensor([2.0**60])
    entries = [contribution("a", huge), contribution("b", torch.ones(1)), contribution("c", -huge)]
    assert same_bits(mean_of(entries), mean_of(entries[::-1]))
    monkeypatch.setattr(merge_module, "sorted", lambda entries, key: list(entries), raising=False)
    assert not same_bits(
        weighted_mean([entries[0], entries[2], entries[1]]), weighted_mean(entries)
    )


@given(WEIGHED, st.lists(st.integers(1, ELEMENTS - 1), unique=True).map(sorted))
def test_slices_change_no_bit(contributions, cuts) -> None:
    bounds = list(zip([0, *cuts], [*cuts, ELEMENTS], strict=True))
    pieces = [mean_of([cut(entry, *bound) for entry in contributions]) for bound in bounds]
    assert same_bits(torch.cat(pieces), mean_of(contributions))


def test_slices_change_no_bit_where_kernels_are_vectorised() -> None:
    """Long ones, cut at odd places: their starts are not aligned and their ends are short."""
    elements = 150_001
    entries = [contribution(f"m{i}", random_bits(elements, i), 512 * (i + 1)) for i in range(3)]
    whole = mean_of(entries)
    for start, stop in [(0, 1), (1, 70_000), (13, 65_549), (65_536, elements), (77_777, 77_795)]:
        assert same_bits(mean_of([cut(entry, start, stop) for entry in entries]), whole[start:stop])


@given(flats(ELEMENTS), st.lists(TOKENS, min_size=1, max_size=9))
def test_the_mean_of_equal_values_is_that_value_to_the_bit(values, weights) -> None:
    """One member alone, and R identical ones, with whatever weights."""
    entries = [contribution(f"m{i}", values.clone(), tokens) for i, tokens in enumerate(weights)]
    assert same_bits(mean_of(entries), values)


def test_equal_values_of_all_exponents_come_back() -> None:
    values = random_bits(100_000, 5)
    entries = [contribution(f"m{i:03}", values, 3**i) for i in range(25)]
    assert same_bits(mean_of(entries), values)


@settings(max_examples=50)
@given(WEIGHED)
def test_the_mean_is_weighted_by_tokens_and_within_the_members(contributions) -> None:
    mean = mean_of(contributions)
    stacked = torch.stack([entry.values for entry in contributions])
    assert bool((mean >= stacked.amin(0)).all()) and bool((mean <= stacked.amax(0)).all())


def test_weights_are_tokens() -> None:
    entries = [contribution("a", torch.tensor([1.0, 0.0]), 300), contribution("b", torch.ones(2))]
    assert mean_of(entries).tolist() == pytest.approx([1.0, 1 / 301])


def test_who_has_no_tokens_weighs_nothing() -> None:
    """As one of a uniform mean its zero would shrink the update to half."""
    one, idle = (
        contribution("a", normal(8, 1), 100),
        contribution("b", torch.zeros(8), 0),
    )
    gathering = Gathering(tag(), 8)
    gathering.add(idle)
    gathering.add(one)
    merged = gathering.merged()
    assert merged.values is not None and same_bits(merged.values, one.values)
    assert merged.tokens == 100 and merged.members == ("a", "b")


def test_nobody_with_tokens_merges_to_nothing() -> None:
    gathering = Gathering(tag(), 4)
    assert gathering.merged().values is None
    gathering.add(contribution("a", torch.ones(4), 0))
    merged = gathering.merged()
    assert merged.values is None and merged.tokens == 0


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    values = normal(64, 1)
    values[40] = bad
    gathering = Gathering(tag(), 64)
    with pytest.raises(WireError, match="refused"):
        gathering.add(contribution("a", values))
    assert gathering.members == ()


@pytest.mark.parametrize(
    "change",
    [dict(stage=1), dict(fragment=1), dict(round=1), dict(base=b"other"), dict(form="difference")],
    ids=lambda change: next(iter(change)),
)
def test_another_round_or_base_is_refused(change) -> None:
    gathering = Gathering(tag(), 4)
    with pytest.raises(StateError, match=f"its {next(iter(change))} differ"):
        gathering.add(contribution("a", torch.ones(4), of=replace(tag(), **change)))
    assert gathering.members == ()


@pytest.mark.parametrize(
    ("values", "tokens"),
    [
        (torch.ones(5), 1),
        (torch.ones(2, 2), 1),
        (torch.ones(4).double(), 1),
        (torch.ones(4), -1),
        (torch.ones(4), MAX_TOKENS + 1),
    ],
)
def test_shapes_and_weights_are_held_to(values: Tensor, tokens: int) -> None:
    with pytest.raises(WireError, match="refused"):
        Gathering(tag(), 4).add(contribution("a", values, tokens))


def test_a_repeat_counts_once_and_a_changed_one_is_refused() -> None:
    gathering = Gathering(tag(), 4)
    first = contribution("a", torch.zeros(4), 2)
    gathering.add(first)
    gathering.add(contribution("a", torch.zeros(4), 2))
    for other in (contribution("a", -torch.zeros(4), 2), contribution("a", torch.zeros(4), 3)):
        with pytest.raises(WireError, match="differs from the one before"):
            gathering.add(other)
    assert gathering.merged().tokens == 2


def test_a_commit_list_says_who_counts() -> None:
    gathering = Gathering(tag(), 2)
    for name in ("b", "a", "c"):
        gathering.add(contribution(name, torch.full((2,), float(ord(name)))))
    merged = gathering.merged(("c", "a"))
    assert merged.members == ("a", "c") and merged.values is not None
    assert merged.values.tolist() == [98.0, 98.0]
    with pytest.raises(StateError, match="d are not here"):
        gathering.merged(("a", "d"))


def test_the_digest_of_a_merged_round_covers_all_of_it() -> None:
    gathering = Gathering(tag(), 2)
    for name in ("a", "b"):
        gathering.add(contribution(name, torch.zeros(2)))
    merged = gathering.merged()
    others = [
        gathering.merged(("a",)),
        replace(merged, tokens=3),
        replace(merged, tag=tag(number=1)),
        replace(merged, tag=tag(base=b"other")),
        replace(merged, values=-torch.zeros(2)),
        replace(merged, values=None),
        replace(merged, members=("a b",)),
    ]
    assert len({entry.digest() for entry in [merged, *others]}) == len(others) + 1


def test_codecs_that_lose_nothing_send_the_parameters_themselves() -> None:
    assert {name for name, codec in CODECS.items() if Form.of(codec) is Form.VALUES} == {"none"}
