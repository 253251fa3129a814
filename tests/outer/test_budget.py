"""The distortion budget: fewest bits within it, the least error beyond it, alike at all members."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.errors import StateError
from swarmtrain.core.rounds import Measured
from swarmtrain.core.sections import RunConfig
from swarmtrain.outer.budget import (
    CANDIDATES,
    DEFAULT_BUDGET,
    SAMPLED_ELEMENTS,
    choose,
    measure,
    measure_candidates,
    next_codec,
    relative_error,
)
from swarmtrain.wire.codecs import CODECS, codec_named

MEASURED = st.builds(
    Measured,
    st.sampled_from(["int4", "ternary", "rank8", "none"]),
    st.floats(0.01, 32),
    st.one_of(st.floats(0, 2), st.just(math.inf), st.just(math.nan)),
)

# What `swarmtrain bench codecs` found once.
FOUND = [
    Measured("int8", 7.55, 0.00005),
    Measured("int4", 3.27, 0.016),
    Measured("ternary", 1.47, 0.21),
    Measured("rank32", 1.03, 0.048),
    Measured("rank8", 0.27, 0.15),
    Measured("top64", 0.14, 0.84),
]


@pytest.mark.parametrize(
    ("budget", "codec"),
    [(0.001, "int8"), (DEFAULT_BUDGET, "int4"), (0.1, "rank32"), (0.5, "rank8"), (1.0, "top64")],
)
def test_fewest_bits_within_the_budget(budget: float, codec: str) -> None:
    choice = choose(FOUND, budget)
    assert choice.codec == codec
    assert f"within {budget:g}" in choice.reason and "bits a parameter" in choice.reason


def test_least_error_when_nothing_fits_and_it_says_so() -> None:
    choice = choose(FOUND, 1e-9)
    assert choice.codec == "int8" and "none of 6 codecs is within 1e-09" in choice.reason


@given(st.lists(MEASURED, min_size=1, max_size=5), st.floats(0, 2))
def test_the_choice_is_the_best_and_does_not_depend_on_the_order(
    measured: list[Measured], budget: float
) -> None:
    choice = choose(measured, budget)
    own = min(
        (entry for entry in measured if entry.codec == choice.codec),
        key=lambda entry: (not entry.relative_error <= budget, entry.bits_per_parameter),
    )
    for entry in measured:
        if entry.relative_error <= budget:
            assert own.relative_error <= budget
            assert own.bits_per_parameter <= entry.bits_per_parameter
    assert all(choose(order, budget) == choice for order in itertools.permutations(measured))


def test_errors_that_are_no_numbers_never_win() -> None:
    entries = [Measured("top64", 0.1, math.nan), Measured("none", 32, 3.0)]
    assert choose(entries, 1.0).codec == "none"
    with pytest.raises(StateError, match="measured"):
        choose([], 1.0)


def test_errors_of_members_partly_cancel() -> None:
    generator = torch.Generator().manual_seed(1)
    common = torch.randn(1 << 15, generator=generator)
    deltas = [common + 0.3 * torch.randn(1 << 15, generator=generator) for _ in range(4)]
    one, mean = measure(codec_named("int4"), deltas[:1], 3), measure(codec_named("int4"), deltas, 3)
    assert mean.relative_error < 0.6 * one.relative_error
    assert mean.bits_per_parameter == pytest.approx(one.bits_per_parameter, rel=0.02)


def test_every_codec_can_be_measured_and_none_is_exact() -> None:
    delta = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    found = {name: measure(codec, [delta], 3) for name, codec in CODECS.items()}
    assert all(entry.codec == name for name, entry in found.items())
    assert found["none"].relative_error == 0
    assert 0 < found["int8"].relative_error < found["int4"].relative_error < 0.02
    assert found["rank8"].relative_error < 1 and found["top64"].relative_error < 1


def test_the_error_of_zero() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert relative_error(zero, zero) == 0 and relative_error(zero, one) == math.inf
    assert relative_error(one, zero) == 1


# ---- what a round chooses for the next --------------------------------------------------------------------------


def test_rounds_choose_from_codecs_that_leave_the_outer_optimizer_alone_and_can_be_cut() -> None:
    wanted = {name for name, c in CODECS.items() if not c.error_feedback and not c.gathers}
    assert set(CANDIDATES) == wanted
    assert RunConfig().outer.distortion == DEFAULT_BUDGET


def test_the_next_codec_goes_by_the_errors_of_all_weighed_by_tokens() -> None:
    def offer(tokens: int, int4_error: float) -> tuple[int, list[Measured]]:
        return tokens, [Measured("int8", 7.5, 1e-4), Measured("int4", 3.3, int4_error)]

    found = next_codec([offer(30, 0.01), offer(10, 0.038)], 0.02)
    assert found is not None and found[0] == "int4"
    assert "fewest bits of 2 codecs within 0.02" in found[1] and "error 0.017" in found[1]
    found = next_codec([offer(10, 0.01), offer(30, 0.04)], 0.02)
    assert found is not None and found[0] == "int8"


def test_what_not_everybody_measured_is_not_chosen_and_nothing_is_where_nobody_measured() -> None:
    one, other = Measured("int4", 3.3, 0.01), Measured("ternary", 1.5, 0.01)
    strange = Measured("top64", 0.1, 0.0)
    found = next_codec([(10, [one, other, strange]), (10, [one, strange]), (0, [other])], 0.02)
    assert found is not None and found[0] == "int4"
    for nothing in ([], [(10, [])], [(0, [one])], [(10, [one]), (10, [other])]):
        assert next_codec(nothing, 0.02) is None


@pytest.mark.parametrize(("bits", "error"), [(-1e3, 0.5), (0.1, -1e3), (math.nan, 0.0)])
def test_what_cannot_have_been_measured_does_not_draw_the_choice_to_it(
    bits: float, error: float
) -> None:
    honest = [Measured("int4", 3.3, 0.01), Measured("ternary", 1.5, 0.5)]
    found = next_codec([(10, honest), (10, [honest[0], Measured("ternary", bits, error)])], 0.02)
    assert found is not None and found[0] == "int4" and "of 1 codecs" in found[1]
    found = next_codec([(10, honest), (10, [Measured("ternary", bits, error)])], 0.02)
    assert found is not None and found[0] == "int4", "it measured nothing"


def test_errors_of_members_are_on_the_safe_side_of_that_of_the_mean() -> None:
    generator = torch.Generator().manual_seed(3)
    common = torch.randn(1 << 15, generator=generator)
    deltas = [common + 2.0 * torch.randn(1 << 15, generator=generator) for _ in range(3)]
    offers = [(10, measure_candidates(delta, 3)) for delta in deltas]
    for number, name in enumerate(CANDIDATES):
        own = sum(found[number].relative_error for _, found in offers) / len(offers)
        assert own >= measure(codec_named(name), deltas, 3).relative_error, name


def test_a_part_of_a_large_fragment_is_measured_and_what_holds_no_codec_is_left_out() -> None:
    generator = torch.Generator().manual_seed(4)
    delta = torch.randn(40 * SAMPLED_ELEMENTS + 5, generator=generator)
    part = {entry.codec: entry for entry in measure_candidates(delta, 3)}
    assert list(part) == list(CANDIDATES)
    whole = measure(codec_named("int4"), [delta], 3)
    assert part["int4"].relative_error == pytest.approx(whole.relative_error, rel=0.02)
    assert part["int4"].bits_per_parameter == pytest.approx(whole.bits_per_parameter, rel=0.02)
    beyond_fp16 = {entry.codec for entry in measure_candidates(torch.full((9,), 1e6), 3)}
    assert beyond_fp16 == set(CANDIDATES) - {"fp16"}
