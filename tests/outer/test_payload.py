"""Payloads: whole grains decode alike in any slices, padding stays zero, and nothing that is to be sent gets lost."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.errors import StateError
from swarmtrain.outer import payload as payload_module
from swarmtrain.outer.merge import Form
from swarmtrain.outer.payload import (
    GRAIN_ELEMENTS,
    Sender,
    answered,
    grains,
    round_codec,
    through,
)
from swarmtrain.wire.codecs import CODECS, codec_named
from swarmtrain.wire.parts import PartsCodec
from tests.outer.values import flats, merged_of, normal, random_bits, same_bits

SLICED = [name for name, codec in CODECS.items() if not codec.gathers]
GATHERED = [name for name, codec in CODECS.items() if codec.gathers]
ELEMENTS = 3 * GRAIN_ELEMENTS + 1000

TENSORS = ((0, (50, 33)), (1664, (7,)), (1680, (60, 80)))
PADDED = 6480
"""Elements of the flat layout: there are gaps after the first two tensors."""


def padded(seed: int) -> torch.Tensor:
    x = torch.zeros(PADDED)
    for offset, shape in TENSORS:
        x[offset : offset + math.prod(shape)] = normal(math.prod(shape), seed + offset)
    return x


@pytest.mark.parametrize("name", SLICED)
def test_whole_grains_decode_alike_in_any_slices(name: str) -> None:
    x = normal(ELEMENTS, 1) * torch.logspace(-6, 2, ELEMENTS)
    whole = through(x, round_codec(name, ELEMENTS, TENSORS), 0).values
    for cuts in ([1], [2], [1, 2], [1, 2, 3]):
        at = [0, *(cut * GRAIN_ELEMENTS for cut in cuts), ELEMENTS]
        for start, stop in itertools.pairwise(at):
            part = x[start:stop].clone()
            decoded = through(part, round_codec(name, stop - start, ()), 0).values
            assert same_bits(decoded, whole[start:stop])


@pytest.mark.parametrize("name", ["int4", "ternary"])
def test_without_grains_slices_would_matter(name: str, monkeypatch) -> None:
    x = normal(ELEMENTS, 1) * torch.logspace(-20, 2, ELEMENTS)
    whole = codec_named(name).decode(codec_named(name).encode(x), (ELEMENTS,))
    first = x[:GRAIN_ELEMENTS]
    part = codec_named(name).decode(codec_named(name).encode(first), tuple(first.shape))
    assert not same_bits(part, whole[:GRAIN_ELEMENTS])


@pytest.mark.parametrize("name", sorted(CODECS))
def test_padding_stays_zero(name: str) -> None:
    payload = through(padded(1), round_codec(name, PADDED, TENSORS), 3)
    decoded, size = payload.values, payload.payload_bytes
    assert decoded[1650:1664].eq(0).all() and decoded[1671:1680].eq(0).all()
    assert decoded.count_nonzero() > 0 and size > 0


def test_top_k_alone_would_fill_padding() -> None:
    """Zeros that are kept decode to a level: one of the reasons why gathered codecs see tensors."""
    sparse = torch.zeros(PADDED)
    sparse[5] = 1.0
    decoded = through(sparse, codec_named("top64"), 0).values
    assert decoded.count_nonzero() > 1
    decoded = through(sparse, round_codec("top64", PADDED, TENSORS), 0).values
    assert decoded[1650:1664].eq(0).all()


def test_low_rank_sees_matrices() -> None:
    codec = round_codec("rank8", PADDED, TENSORS)
    assert isinstance(codec, PartsCodec) and codec.parts == TENSORS
    assert codec.encoded_bytes(PADDED) < round_codec("int4", PADDED, TENSORS).encoded_bytes(PADDED)


@given(st.integers(1, 5 * GRAIN_ELEMENTS))
def test_grains_cover_a_fragment(elements: int) -> None:
    parts = grains(elements)
    assert [offset for offset, _ in parts] == list(range(0, elements, GRAIN_ELEMENTS))
    assert sum(length for _, (length,) in parts) == elements


# ---- senders --------------------------------------------------------------------------------------------------------


@given(flats(8), flats(8))
def test_exact_payloads_are_the_parameters_to_the_bit(base, local) -> None:
    sender = Sender(codec_named("none"), 8)
    payload = sender.make(base, local)
    assert sender.form is Form.VALUES and same_bits(payload.values, local)


def test_exact_payloads_over_all_exponents() -> None:
    base, local = random_bits(100_000, 1), random_bits(100_000, 2)
    payload = Sender(codec_named("none"), 100_000, zstd_level=3).make(base, local)
    assert same_bits(payload.values, local)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_a_payload_that_missed_its_round_goes_with_the_next(name: str) -> None:
    """What arrives then is what both would have brought."""
    sender = Sender(round_codec(name, PADDED, TENSORS), PADDED, feedback=False)
    base, first, second = padded(1), padded(1) + 0.1 * padded(2), padded(1) - 0.2 * padded(3)
    lost = sender.make(base, first)
    brought = base - lost.values if sender.form is Form.VALUES else lost.values
    sender.lost(lost.values, base)
    assert torch.allclose(sender.residual.value, brought)
    again = sender.make(base, second)
    arrived = base - again.values if sender.form is Form.VALUES else again.values
    assert sender.residual.value.count_nonzero() == 0
    wanted = (base - second) + brought
    scale = float(wanted.norm())
    # Codecs err; a lost payload that stayed lost would be missing altogether.
    loose = {"ternary": 0.6, "rank32": 0.6, "rank16": 0.75, "rank8": 0.9}
    limit = 1.0 if name.startswith("top") else loose.get(name, 0.15)
    assert float((arrived - wanted).norm()) <= limit * scale
    if limit <= 0.15:
        assert float((arrived - (base - second)).norm()) > 0.3 * float(brought.norm())


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_feedback_keeps_what_was_left_out(seed: int) -> None:
    sender = Sender(round_codec("top64", PADDED, TENSORS), PADDED)
    base, local = padded(seed), padded(seed + 1)
    payload = sender.make(base, local)
    assert torch.allclose(payload.values + sender.residual.value, base - local, atol=1e-5)


@pytest.mark.parametrize("name", ["none", "int4", "top64"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_never_sent_and_loses_nothing(name: str, bad: float) -> None:
    sender = Sender(round_codec(name, PADDED, TENSORS), PADDED)
    base, local = padded(1), padded(2)
    sender.lost(sender.make(base, local).values, base)
    waiting = sender.residual.value
    local[7] = bad
    with pytest.raises(StateError):
        sender.make(base, local)
    assert torch.allclose(sender.residual.value, waiting) and waiting.count_nonzero() > 0


def test_what_the_codec_cannot_hold_is_not_sent_and_kept() -> None:
    sender = Sender(codec_named("fp16"), 4)
    base, local = torch.zeros(4), torch.tensor([1e5, 1.0, 2.0, 3.0])
    with pytest.raises(StateError):
        sender.make(base, local)
    assert torch.equal(sender.residual.value, -local)


# ---- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SLICED)
def test_the_mean_comes_back_as_its_codec_has_it(name: str) -> None:
    mean = normal(1000, 1)
    codec = round_codec(name, 1000, ())
    merged, size = answered(merged_of(mean), codec, 3)
    assert merged.values is not None and same_bits(merged.values, through(mean, codec, 3).values)
    assert 0 < size <= codec.encoded_bytes(1000)


def test_parameters_come_back_as_they_are_or_not_at_all() -> None:
    values = random_bits(1000, 3)
    merged, _ = answered(merged_of(values, Form.VALUES), codec_named("none"), 3)
    assert merged.values is not None and same_bits(merged.values, values)
    with pytest.raises(ValueError, match="not for parameters"):
        answered(merged_of(values, Form.VALUES), codec_named("int4"), 0)
    with pytest.raises(StateError, match="does not fit"):
        answered(merged_of(torch.tensor([1e5])), codec_named("fp16"), 0)
    assert answered(merged_of(None), codec_named("int4"), 0)[1] == 0


def test_no_codec_is_left_out() -> None:
    assert set(SLICED) | set(GATHERED) == set(CODECS) and len(GATHERED) == 5
    assert payload_module.GRAIN_ELEMENTS % 4096 == 0
