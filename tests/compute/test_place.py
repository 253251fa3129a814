"""Where stages are computed: what `auto` chooses and why, and that a copy elsewhere computes what the stage holds.

No test here needs a device: the copy is kept on the CPU, and bf16 autocast is the CPU's.
"""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from swarmtrain.compute.place import (
    HERE,
    Devices,
    Place,
    choose_place,
    find_place,
    hold_memory,
    memory_on,
    seen_devices,
)
from swarmtrain.compute.replica import Replica
from swarmtrain.compute.stage import EdgeCompute, MiddleCompute, build_compute
from swarmtrain.core.errors import ConfigError
from tests.experiments.runs import small_config

CPU = torch.device("cpu")
APART = Place(CPU)
"""As on a device apart: the stage computes on a copy of its parameters."""
NARROW = Place(CPU, bf16=True)
CONFIG = small_config("train.accumulation=fast")
CUDA = Devices("a card", cuda_bf16=True, free_bytes=10_000, total_bytes=16_000)


@pytest.mark.parametrize(
    ("accumulation", "seen", "name", "why"),
    [
        ("fast", Devices(), "cpu", "neither CUDA nor MPS"),
        ("exact", Devices(), "cpu", "neither CUDA nor MPS"),
        ("exact", CUDA, "cpu", "equal bits"),
        ("exact", Devices(mps=True), "cpu", "equal bits"),
        ("fast", CUDA, "cuda bf16", "a card"),
        ("fast", Devices("old card"), "cuda", "old card"),
        ("fast", Devices(mps=True), "mps", "MPS"),
    ],
)
def test_auto_says_why(accumulation: str, seen: Devices, name: str, why: str) -> None:
    place, reason = choose_place("auto", accumulation, seen)  # type: ignore[arg-type]
    assert place.name == name and why in reason


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="a GPU")
def test_here_auto_is_the_cpu() -> None:
    place, reason = choose_place("auto", "fast", seen_devices())
    assert place == HERE and "neither" in reason


@pytest.mark.parametrize(
    ("wanted", "accumulation", "seen", "why"),
    [
        ("cuda", "fast", Devices(), "finds none"),
        ("mps", "fast", CUDA, "finds none"),
        ("cuda", "exact", CUDA, "equal bits"),
        ("tpu", "fast", CUDA, ""),
    ],
)
def test_a_device_that_cannot_be_is_refused(
    wanted: str, accumulation: str, seen: Devices, why: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_place(wanted, accumulation, seen)  # type: ignore[arg-type]
    assert why in caught.value.why and caught.value.remedy


def test_a_cards_memory_bounds_what_stages_may_use() -> None:
    assert memory_on(choose_place("cuda", "fast", CUDA)[0], CUDA, 50_000) == 8_000
    assert memory_on(choose_place("cuda", "fast", CUDA)[0], CUDA, 5_000) == 5_000
    assert memory_on(HERE, CUDA, 50_000) == 50_000


def test_peers_that_start_at_once_share_a_card() -> None:
    place = choose_place("cuda", "fast", CUDA)[0]
    assert memory_on(place, CUDA, 50_000, sharers=4) == 3_200
    # The others have taken theirs: who starts again gets what it had, not a part of what they left.
    left = replace(CUDA, free_bytes=4_000)
    assert memory_on(place, left, 50_000, sharers=4) == 3_200
    assert memory_on(HERE, CUDA, 50_000, sharers=4) == 50_000


def pretend_card(monkeypatch: pytest.MonkeyPatch, held: list[float]) -> None:
    """A card of 16,000 bytes, a quarter of them taken, that emulates bf16 as a T4 does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12_000, 16_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    emulates = lambda including_emulation=True: including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulates)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", held.append)


def test_a_card_that_only_emulates_bf16_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_card(monkeypatch, [])
    assert seen_devices() == Devices("T4", cuda_bf16=False, free_bytes=12_000, total_bytes=16_000)
    assert choose_place("auto", "fast", seen_devices())[0].name == "cuda"


@pytest.mark.parametrize(("wanted", "accumulation"), [("cpu", "fast"), ("auto", "exact")])
def test_a_card_that_cannot_be_chosen_is_left_alone(
    wanted: str, accumulation: Literal["exact", "fast"], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_card(monkeypatch, [])
    assert find_place("auto", "fast")[2].free_bytes == 12_000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: pytest.fail("this takes memory there"))
    assert find_place(wanted, accumulation)[0] == HERE


def test_a_process_takes_no_more_of_a_card_than_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []
    pretend_card(monkeypatch, held)
    hold_memory(choose_place("cuda", "fast", seen_devices())[0], 4_000)
    hold_memory(choose_place("cuda", "fast", seen_devices())[0], 99_000)
    hold_memory(HERE, 4_000)
    assert held == [0.25, 1.0]


def middle_pass(place: Place) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output, input gradient and parameter gradients of one microbatch, backward in two parts."""
    generator = torch.Generator().manual_seed(1)
    train = CONFIG.train
    shape = (train.microbatch_size, train.sequence_length, CONFIG.model.width)
    x_BTD = torch.randn(shape, generator=generator)
    compute = MiddleCompute(CONFIG, 1, place)
    tape = compute.forward(x_BTD)
    gradient_BTD, rest = compute.split_backward(tape, x_BTD)
    return tape.sent_BTD, gradient_BTD, list(rest().gradients)


def test_a_copy_elsewhere_computes_the_same() -> None:
    for here, apart in zip(middle_pass(HERE), middle_pass(APART), strict=True):
        for one, other in zip(here, apart, strict=True):
            assert torch.equal(one, other)


def test_bf16_stays_near_and_comes_back_as_fp32() -> None:
    (y, dx, gradients), (y16, dx16, gradients16) = middle_pass(HERE), middle_pass(NARROW)
    for wide, narrow in zip([y, dx, *gradients], [y16, dx16, *gradients16], strict=True):
        assert narrow.dtype == torch.float32 and narrow.shape == wide.shape
        assert not torch.equal(wide, narrow) and not narrow.requires_grad
        # bf16 keeps 8 bits: single values are off by up to 1 %, sums of many by less than that of the largest.
        assert float((wide - narrow).norm() / wide.norm()) < 0.02


@pytest.mark.parametrize("place", [APART, NARROW])
def test_an_edge_elsewhere(place: Place) -> None:
    tokens_BT = torch.arange(64).reshape(2, 32)
    here, there = EdgeCompute(CONFIG, 257), EdgeCompute(CONFIG, 257, place)
    assert torch.equal(here.embed(tokens_BT).sent_BTD, there.embed(tokens_BT).sent_BTD)
    x_BTD = torch.randn(2, 32, CONFIG.model.width, generator=torch.Generator().manual_seed(2))
    losses = [compute.loss(x_BTD, tokens_BT)[0] for compute in (here, there)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    *_, contribution = there.loss(x_BTD, tokens_BT)
    assert {one.dtype for one in contribution.gradients} == {torch.float32}


@pytest.mark.parametrize("stage", [0, 1])
def test_the_copy_follows_every_change_of_the_stage(stage: int) -> None:
    """A state that is loaded, and one that an update wrote, is what the module computes with."""
    replica = Replica(CONFIG, stage, build_compute(CONFIG, 257, stage, APART))
    generator = torch.Generator().manual_seed(3)
    loaded = [torch.randn(replica.elements, generator=generator) for _ in range(3)]
    replica.load(loaded)
    assert_computes_with(replica)
    replica.current.parameters.mul_(2.0)
    with pytest.raises(AssertionError):
        assert_computes_with(replica)  # this is what a forgotten bind looks like
    replica.compute.flat.bind(replica.current.parameters)
    assert_computes_with(replica)


def assert_computes_with(replica: Replica) -> None:
    flat = replica.compute.flat
    views = flat.views(replica.current.parameters)
    for view, parameter in zip(views, replica.compute.module.parameters(), strict=True):
        assert torch.equal(view, parameter.detach())
