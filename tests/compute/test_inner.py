"""The pinned AdamW: torch's within rounding, and the same bits however the stage is cut."""

import itertools

import torch
from torch import Tensor

from swarmtrain.compute.accumulate import SCALE_BITS
from swarmtrain.compute.inner import Buffers, Update, adamw
from swarmtrain.core.closing import Scalars
from swarmtrain.core.config import OptimizerSection
from swarmtrain.core.schedule import scalars_of

ELEMENTS = 70_000
TOKENS = 384
OPTIMIZER = OptimizerSection(learning_rate=3e-3, warmup_steps=2)


def scalars(step: int) -> Scalars:
    return scalars_of(OPTIMIZER, step, 10)


def totals(steps: int) -> list[Tensor]:
    """Summed gradients as fixed point, some of them zero as padding is."""
    generator = torch.Generator().manual_seed(4)
    found = []
    for _ in range(steps):
        values = torch.randn(ELEMENTS, generator=generator)
        values[::97] = 0.0
        found.append((values.double() * TOKENS * 2.0**SCALE_BITS * 0.01).long())
    return found


def train(steps: int, cuts: list[int], clip: float = 1.0) -> Buffers:
    """Some steps, the stage cut into spans at `cuts`; all of it decayed."""
    values = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(5))
    before = Buffers(values, torch.zeros(ELEMENTS), torch.zeros(ELEMENTS))
    edges = [0, *cuts, ELEMENTS]
    spans = [(a, b - a, True) for a, b in itertools.pairwise(edges)]
    for step, total in enumerate(totals(steps)):
        after = Buffers.like(values)
        adamw(before, after, Update(total, TOKENS, clip, scalars(step)), spans, OPTIMIZER)
        before = after
    return before


def test_five_steps_agree_with_torch_within_rounding():
    """torch rounds in another order: measured 2.4e-7 apart at values around 4."""
    parameter = torch.nn.Parameter(
        torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(5))
    )
    theirs = torch.optim.AdamW(
        [parameter], betas=(OPTIMIZER.beta1, OPTIMIZER.beta2), eps=OPTIMIZER.epsilon,
        weight_decay=OPTIMIZER.weight_decay, foreach=False,
    )  # fmt: skip
    for step, total in enumerate(totals(5)):
        parameter.grad = (total.double() * (2.0**-SCALE_BITS / TOKENS)).float()
        theirs.param_groups[0]["lr"] = scalars(step).learning_rate
        theirs.step()
    ours = train(5, [])
    assert float((ours.parameters - parameter.detach()).abs().amax()) < 1e-6
    state = theirs.state[parameter]
    assert torch.allclose(ours.moment1, state["exp_avg"], rtol=1e-5, atol=1e-9)
    assert torch.allclose(ours.moment2, state["exp_avg_sq"], rtol=1e-5, atol=1e-12)


def test_slices_give_the_bits_of_the_whole():
    whole, sliced = train(3, []), train(3, [1, 16, 4096, 65536, 65537, 69_999])
    for name in ("parameters", "moment1", "moment2"):
        assert torch.equal(getattr(whole, name), getattr(sliced, name))


def test_the_buffers_before_stay_as_undo():
    values = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(5))
    before = Buffers(values, torch.ones(ELEMENTS), torch.full((ELEMENTS,), 2.0))
    kept = [t.clone() for t in (before.parameters, before.moment1, before.moment2)]
    update = Update(totals(1)[0], TOKENS, 1.0, scalars(0))
    adamw(before, Buffers.like(values), update, [(0, ELEMENTS, True)], OPTIMIZER)
    for tensor, copy in zip((before.parameters, before.moment1, before.moment2), kept, strict=True):
        assert torch.equal(tensor, copy)


def test_the_clip_factor_scales_the_gradient():
    half = train(1, [], clip=0.5)
    whole = train(1, [])
    assert torch.allclose(half.moment1, 0.5 * whole.moment1, rtol=1e-6)
    assert torch.allclose(half.moment2, 0.25 * whole.moment2, rtol=1e-6)


def test_only_decayed_spans_shrink_without_a_gradient():
    values = torch.ones(32)
    before, after = Buffers(values, torch.zeros(32), torch.zeros(32)), Buffers.like(values)
    nothing = Update(torch.zeros(32, dtype=torch.int64), TOKENS, 1.0, scalars(5))
    adamw(before, after, nothing, [(0, 16, True), (16, 16, False)], OPTIMIZER)
    rate = scalars(5).learning_rate
    assert torch.equal(after.parameters[16:], torch.ones(16))
    assert torch.allclose(
        after.parameters[:16], torch.full((16,), 1 - rate * OPTIMIZER.weight_decay)
    )
