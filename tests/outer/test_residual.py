"""Residuals: nothing is lost but what feedback is told to drop, whatever misses its round, in whatever order."""

import math

import pytest
import torch
from torch import Tensor

from swarmtrain.core.errors import StateError
from swarmtrain.outer.residual import Residual
from swarmtrain.wire.codecs import codec_named
from swarmtrain.wire.tensors import roundtrip

ELEMENTS = 8192


def deltas(count: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(ELEMENTS, generator=generator) for _ in range(count)]


def test_a_residual_starts_empty_and_lets_a_delta_through() -> None:
    residual = Residual(ELEMENTS, feedback=True)
    (delta,) = deltas(1)
    assert torch.equal(residual.take(delta), delta)
    assert residual.value.eq(0).all()


def test_with_feedback_what_arrived_and_what_is_left_make_up_all_of_it() -> None:
    residual = Residual(ELEMENTS, feedback=True, kept_share=1.0)
    arrived, wanted = torch.zeros(ELEMENTS), torch.zeros(ELEMENTS)
    for delta in deltas(20):
        taken = residual.take(delta)
        decoded = roundtrip(taken, "top64")
        residual.sent(taken, decoded)
        arrived, wanted = arrived + decoded, wanted + delta
        assert torch.allclose(arrived + residual.value, wanted, atol=1e-4)
    assert arrived.count_nonzero() > 128 * 10, "the same places do not win every time"


def test_only_the_kept_share_is_carried_on() -> None:
    residual = Residual(ELEMENTS, feedback=True, kept_share=0.95)
    first, second = deltas(2)
    taken = residual.take(first)
    decoded = roundtrip(taken, "top64")
    residual.sent(taken, decoded)
    assert torch.equal(residual.value, first - decoded)
    assert torch.allclose(residual.take(second), second + 0.95 * (first - decoded))


def test_a_residual_follows_the_learning_rate_where_asked() -> None:
    residual = Residual(ELEMENTS, feedback=True, kept_share=1.0)
    (delta,) = deltas(1)
    residual.sent(residual.take(delta), torch.zeros(ELEMENTS))
    assert torch.allclose(residual.take(torch.zeros(ELEMENTS), rate_ratio=0.1), 0.1 * delta)


def test_without_feedback_nothing_is_left_of_a_payload_that_arrived() -> None:
    residual = Residual(ELEMENTS, feedback=codec_named("int4").error_feedback)
    (delta,) = deltas(1)
    taken = residual.take(delta)
    residual.sent(taken, roundtrip(taken, "ternary"))
    assert residual.value.eq(0).all()


@pytest.mark.parametrize("feedback", [False, True])
def test_a_payload_that_missed_its_round_is_sent_again_whole(feedback: bool) -> None:
    residual = Residual(ELEMENTS, feedback, kept_share=1.0)
    first, second = deltas(2)
    decoded = roundtrip(residual.take(first), "int4")
    residual.sent(first, decoded)
    residual.restore(decoded)
    left_out = first - decoded if feedback else torch.zeros(ELEMENTS)
    assert torch.allclose(residual.take(second), second + decoded + left_out, atol=1e-6)
    residual.sent(second, second)
    assert residual.value.eq(0).all(), "and only once"


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("between", ["before take", "before sent", "after sent"])
def test_a_round_may_fail_while_the_next_one_is_under_way(between: str, feedback: bool) -> None:
    """With overlapped rounds the verdict comes at any time: no order loses or doubles anything."""
    residual = Residual(ELEMENTS, feedback, kept_share=1.0)
    first, second, third = deltas(3)
    one = roundtrip(residual.take(first), "int4")
    residual.sent(first, one)
    if between == "before take":
        residual.restore(one)
    taken = residual.take(second)
    if between == "before sent":
        residual.restore(one)
    two = roundtrip(taken, "int4")
    residual.sent(taken, two)
    if between == "after sent":
        residual.restore(one)
    last = residual.take(third)
    arrived = last + two
    if feedback:
        assert torch.allclose(arrived, first + second + third, atol=1e-5)
    else:
        error = (arrived - (first + second + third)).norm() / first.norm()
        assert error < 0.3, "but for what int4 left out twice"


def test_what_was_never_sent_is_put_back_the_same_way() -> None:
    residual = Residual(ELEMENTS, feedback=True)
    first, second = deltas(2)
    residual.restore(residual.take(first))
    assert torch.allclose(residual.take(second), first + second)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_never_gets_in(bad: float) -> None:
    residual = Residual(ELEMENTS, feedback=True)
    first, second = deltas(2)
    residual.sent(residual.take(first), roundtrip(first, "top64"))
    before = residual.value
    second[7] = bad
    with pytest.raises(StateError, match="finite"):
        residual.take(second)
    assert torch.equal(residual.value, before)


def test_a_payload_beyond_its_codec_is_refused() -> None:
    residual = Residual(ELEMENTS, feedback=True)
    taken = residual.take(torch.full((ELEMENTS,), 1e6))
    with pytest.raises(StateError, match="finite"):
        residual.sent(taken, roundtrip(taken, "fp16"))
    residual.restore(taken)
    assert torch.equal(residual.value, taken)
