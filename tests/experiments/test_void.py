"""A key whose gradient cannot be summed counts nowhere, in both worlds by one rule (protocol.md, answers c and 2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import swarmtrain.compute.stage as stage_module
from swarmtrain.core.events import KeyVoided, Sealed
from swarmtrain.experiments.virtual import VirtualPeer, VirtualRun, peers
from swarmtrain.model.stages import build_middle
from swarmtrain.wire.tensors import tensor_digest
from tests.experiments.runs import (
    MIXED,
    Yardstick,
    events_of,
    losses_of,
    reference,
    sha_of,
    small_config,
    virtual,
)

CONFIG = small_config(steps=4)
STAGE, STEP, KEY = 2, 1, 3
MICROBATCHES = CONFIG.train.microbatches

Spoil = Callable[[Tensor], Tensor]


class _SpoiltBackward(torch.autograd.Function):
    """Identity forward; multiplies the gradient that passes by `factor`."""

    @staticmethod
    def forward(context: object, x: Tensor, factor: float) -> Tensor:
        context.factor = factor  # type: ignore[attr-defined]
        return x.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * context.factor, None  # type: ignore[attr-defined]


def nan_gradient(y: Tensor) -> Tensor:
    return _SpoiltBackward.apply(y, math.nan)  # type: ignore[no-any-return, no-untyped-call]


def infinite_gradient(y: Tensor) -> Tensor:
    return _SpoiltBackward.apply(y, math.inf)  # type: ignore[no-any-return, no-untyped-call]


def oversized_gradient(y: Tensor) -> Tensor:
    """Finite, but so large that the sum's 64 bits could overflow."""
    return _SpoiltBackward.apply(y, 1e12)  # type: ignore[no-any-return, no-untyped-call]


def nan_activation(y: Tensor) -> Tensor:
    return y * math.nan


@dataclass(slots=True)
class Poison:
    """Spoils a middle stage's output for chosen keys, which it knows by the digest of their input; None is all."""

    monkeypatch: pytest.MonkeyPatch
    stage: int
    inputs: list[bytes] = field(default_factory=list)
    spoil: Spoil | None = None
    chosen: frozenset[bytes] | None = frozenset()

    def install(self) -> None:
        def build(model: object, stage: int, seed: int) -> nn.Module:
            module = build_middle(model, stage, seed)  # type: ignore[arg-type]
            if stage == self.stage:
                module.register_forward_hook(self._hook)
            return module

        self.monkeypatch.setattr(stage_module, "build_middle", build)

    def _hook(self, module: nn.Module, inputs: tuple[Tensor, ...], y_BTD: Tensor) -> Tensor | None:
        digest = tensor_digest(inputs[0])
        self.inputs.append(digest)
        is_chosen = self.chosen is None or digest in self.chosen
        return self.spoil(y_BTD) if self.spoil is not None and is_chosen else None


def poisoned(
    monkeypatch: pytest.MonkeyPatch,
    spoil: Spoil,
    items: frozenset[tuple[int, int]],
    stage: int = STAGE,
    overrides: tuple[str, ...] = (),
    fleet: tuple[VirtualPeer, ...] = MIXED,
) -> tuple[Yardstick, VirtualRun]:
    """Reference and swarm with the output of `stage` spoilt for the `(step, key)` in `items`, all of one step."""
    config = small_config(*overrides, steps=4)
    poison = Poison(monkeypatch, stage)
    poison.install()
    reference(config)  # an unpoisoned pass, to learn the inputs up to and including the step
    poison.chosen = frozenset(poison.inputs[step * MICROBATCHES + key] for step, key in items)
    poison.spoil = spoil
    return reference(config), virtual(config, fleet)


@pytest.mark.parametrize(
    "spoil", [nan_gradient, infinite_gradient, oversized_gradient, nan_activation]
)
@pytest.mark.parametrize("stage", [1, 2])
def test_one_spoilt_key_counts_nowhere(monkeypatch: pytest.MonkeyPatch, spoil: Spoil, stage: int):
    yardstick, run = poisoned(monkeypatch, spoil, frozenset({(STEP, KEY)}), stage)
    assert yardstick.void == ((), (KEY,), (), ())
    assert [commit.void for commit in run.commits] == list(yardstick.void)
    assert sha_of(run) == yardstick.parameters_sha256
    assert losses_of(run) == yardstick.losses
    assert {commit.tokens for commit in run.commits} == {
        MICROBATCHES * CONFIG.train.tokens_per_microbatch
    }, "the divisor is fixed by the step, also when a key does not count"
    assert {(event.step, event.key) for event in events_of(run, KeyVoided)} == {(STEP, KEY)}  # type: ignore[attr-defined]


def test_no_position_of_a_void_key_has_an_owner(monkeypatch: pytest.MonkeyPatch):
    """Positions below the spoilt one had accumulated already; the seal takes their part out again."""
    _, run = poisoned(monkeypatch, nan_gradient, frozenset({(STEP, KEY)}), stage=1)
    positions = CONFIG.model.stages + 2
    for sealed in events_of(run, Sealed):
        void = 1 if sealed.step == STEP else 0  # type: ignore[attr-defined]
        owned = sum(share for _, share in sealed.owners)  # type: ignore[attr-defined]
        assert owned == (MICROBATCHES - void) * positions


def test_several_keys_of_a_step_may_be_void(monkeypatch: pytest.MonkeyPatch):
    items = frozenset({(STEP, 0), (STEP, 2), (STEP, 5)})
    yardstick, run = poisoned(monkeypatch, nan_gradient, items)
    assert run.commits[STEP].void == (0, 2, 5) == yardstick.void[STEP]
    assert sha_of(run) == yardstick.parameters_sha256
    assert losses_of(run) == yardstick.losses


@pytest.mark.parametrize("spoil", [nan_gradient, nan_activation])
@pytest.mark.parametrize("fleet", [peers(1), MIXED], ids=["alone", "mixed"])
def test_a_step_without_any_key_that_counts_still_commits_alike(
    monkeypatch: pytest.MonkeyPatch, spoil: Spoil, fleet: tuple[VirtualPeer, ...]
):
    every_key = frozenset((STEP, key) for key in range(MICROBATCHES))
    yardstick, run = poisoned(monkeypatch, spoil, every_key, fleet=fleet)
    assert run.commits[STEP].void == tuple(range(MICROBATCHES))
    assert math.isnan(run.commits[STEP].loss) and math.isnan(yardstick.losses[STEP])
    assert run.commits[STEP].gradient_norm == 0.0
    assert sha_of(run) == yardstick.parameters_sha256
    assert losses_of(run)[STEP + 1 :] == yardstick.losses[STEP + 1 :]


def test_a_tied_edge_leaves_a_void_key_out_at_both_ends(monkeypatch: pytest.MonkeyPatch):
    items = frozenset({(STEP, KEY)})
    yardstick, run = poisoned(monkeypatch, nan_gradient, items, 1, ("model.tied=true",))
    assert run.commits[STEP].void == (KEY,)
    assert sha_of(run) == yardstick.parameters_sha256


def test_fast_sums_without_a_void_key_stay_close(monkeypatch: pytest.MonkeyPatch):
    """Retraction in floats leaves rounding only. Measured: losses 7.9e-8 nats apart.

    The key is one of step 0: later inputs differ in their last bits between the two worlds.
    """
    items = frozenset({(0, KEY)})
    over = ("train.accumulation=fast",)
    yardstick, run = poisoned(monkeypatch, oversized_gradient, items, 1, over)
    assert run.commits[0].void == (KEY,) == yardstick.void[0]
    gaps = [abs(a - b) for a, b in zip(losses_of(run), yardstick.losses, strict=True)]
    assert max(gaps) < 2.4e-7


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_a_lossy_codec_does_not_hide_what_is_not_finite(
    monkeypatch: pytest.MonkeyPatch, codec: str
):
    """Every activation of stage 1 is spoilt from the first step on, so every key is void wherever stages lie."""
    Poison(monkeypatch, 1, spoil=nan_activation, chosen=None).install()
    config = small_config(f"wire.codec={codec}", steps=2)
    for fleet in (peers(1), MIXED):
        run = virtual(config, fleet)
        assert [commit.void for commit in run.commits] == [tuple(range(MICROBATCHES))] * 2


def test_without_the_rule_a_spoilt_key_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """Were the swarm to sum it all the same, the comparison above would fail."""
    monkeypatch.setattr("swarmtrain.peer.position.is_summable", lambda contribution, limit: True)
    yardstick, run = poisoned(monkeypatch, oversized_gradient, frozenset({(STEP, KEY)}))
    assert run.commits[STEP].void == ()
    assert sha_of(run) != yardstick.parameters_sha256
