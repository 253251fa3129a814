"""Stages left out and swapped in training: the swarm, the plain loop and autograd agree, under faults too (R14)."""

import pytest
import torch

from swarmtrain.compute import replica as replica_module
from swarmtrain.compute.accumulate import mean_gradient
from swarmtrain.core import sequences as sequences_module
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import FaultInjected, Restored
from swarmtrain.core.messages import StageSum
from swarmtrain.core.sequences import sequence_of, stage_sequences
from swarmtrain.data.stream import microbatch
from swarmtrain.experiments import reference as reference_module
from swarmtrain.experiments.checker import check
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.reference import Reference
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, VirtualRun, simulate
from swarmtrain.model.stages import build_stage
from tests.experiments.runs import (
    corpus,
    events_of,
    known_reference,
    losses_of,
    reference,
    sha_of,
    small_config,
    virtual,
)

TINY = (
    "model.stages=4",
    "model.width=16",
    "model.heads=2",
    "model.kv_heads=1",
    "model.ffn_width=16",
    "train.microbatch_size=1",
    "train.sequence_length=8",
)
HALF = small_config(*TINY, "paths.skip=0.5", "paths.swaps=1", steps=3)
PROTECTED = small_config(*TINY, "paths.skip=0.25", "paths.protected=[1, 4]", steps=3)
ONE_KEY = small_config(
    *TINY, "paths.skip=0.5", "train.microbatches=1", "recovery.snapshot_steps=1", steps=4
)
"""Two of the four stages have no gradient in a step."""

PAIRS = (
    VirtualPeer("left-a", (0, 1, 2)),
    VirtualPeer("left-b", (0, 1, 2)),
    VirtualPeer("right-a", (3, 4)),
    VirtualPeer("right-b", (3, 4)),
)
APART = (
    VirtualPeer("edge", (0,)),
    VirtualPeer("odd", (1, 3)),
    VirtualPeer("second", (2,), slowness=3.0),
    VirtualPeer("fourth", (4,)),
)


def equals_the_loop(run: VirtualRun, config: RunConfig) -> None:
    assert not run.errors and not run.stalled
    assert sha_of(run) == known_reference(config).parameters_sha256
    assert losses_of(run) == known_reference(config).losses
    assert check(run.journal.lines) == []


# ---- the swarm equals the loop --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "fleet"),
    [(HALF, PAIRS), (HALF, APART), (PROTECTED, APART), (ONE_KEY, PAIRS)],
    ids=["half of pairs", "half", "protected", "one key"],
)
def test_a_swarm_that_skips_equals_the_loop(config: RunConfig, fleet: tuple[VirtualPeer, ...]):
    equals_the_loop(virtual(config, fleet), config)


@pytest.mark.parametrize(
    ("config", "victim", "point"),
    [
        (HALF, "left-b", "forward.done"),
        (HALF, "right-b", "backward.after_accumulate_before_reply"),
        (HALF, "right-a", "sealed"),
        (ONE_KEY, "left-b", "forward.done"),
        (ONE_KEY, "left-a", "reduce.middle"),
        (ONE_KEY, "right-b", "applied"),
    ],
)
def test_a_kill_while_stages_are_skipped_changes_no_bit(config: RunConfig, victim: str, point: str):
    fault = Fault("kill", (victim,), at_point=point, nth=2)
    run = simulate(config, Scenario(PAIRS, faults=(fault,)), corpus())
    assert len(events_of(run, FaultInjected)) == 1
    equals_the_loop(run, config)


@pytest.mark.parametrize("kind", ["freeze", "partition", "drop", "duplicate", "straggler"])
def test_other_faults_while_stages_are_skipped_change_no_bit(kind: str):
    fault = Fault(kind, ("right-a",), 0.05, duration_seconds=6.0, amount=4)  # type: ignore[arg-type]
    scenario = Scenario(
        PAIRS, forward_seconds=0.01, backward_seconds=0.02, faults=(fault,), stall_seconds=60.0
    )
    run = simulate(HALF, scenario, corpus())
    assert len(events_of(run, FaultInjected)) == 1
    equals_the_loop(run, HALF)


def test_a_stage_lost_while_nobody_visited_it_comes_back_from_its_snapshot():
    unvisited = set(range(1, 5)) - set(stage_sequences(ONE_KEY, 2)[0])
    lost = max(unvisited)
    fleet = tuple(VirtualPeer(f"peer-{stage}", (stage,)) for stage in range(5))
    spares = (
        VirtualPeer("spare-edge", (0,)),
        VirtualPeer("spare", (min(set(range(1, 5)) - {lost}),)),
    )
    fault = Fault("kill", (f"peer-{lost}",), at_point="sealed", nth=3)
    run = simulate(ONE_KEY, Scenario((*fleet, *spares), faults=(fault,)), corpus())
    assert events_of(run, FaultInjected) and events_of(run, Restored)
    equals_the_loop(run, ONE_KEY)


def test_who_skips_what_matters(monkeypatch: pytest.MonkeyPatch):
    """A loop that went through all stages would not equal the swarm: the comparisons above can fail."""
    monkeypatch.setattr(reference_module, "stage_sequences", lambda config, step: ((1, 2, 3, 4),))
    assert reference(HALF).losses != known_reference(HALF).losses


# ---- the gradient ---------------------------------------------------------------------------------------------------


def autograd_of_the_mean_loss(config: RunConfig, step: int) -> list[torch.Tensor]:
    """Flat gradient of each stage of the untrained model, from nothing but modules and routes."""
    train, vocab_size = config.train, corpus().tokenizer.vocab_size
    stages = [
        build_stage(config.model, vocab_size, stage, config.run.seed)
        for stage in range(config.model.stages + 1)
    ]
    loss = torch.zeros(())
    for key in range(train.microbatches):
        place = {"seed": config.run.seed, "step": step, "index": key}
        size = {
            "microbatch_size": train.microbatch_size,
            "sequence_length": train.sequence_length,
        }
        tokens_BT = torch.from_numpy(microbatch(corpus(), **place, **size))
        x_BTD = stages[0].embed(tokens_BT[:, :-1])
        for stage in sequence_of(stage_sequences(config, step), key):
            x_BTD = stages[stage](x_BTD)
        loss = loss + stages[0].loss_sum(x_BTD, tokens_BT[:, 1:])
    (loss / (train.microbatches * train.tokens_per_microbatch)).backward()  # type: ignore[no-untyped-call]
    return [
        torch.cat(
            [
                torch.zeros(p.numel()) if p.grad is None else p.grad.reshape(-1)
                for p in stage.parameters()
            ]
        )
        for stage in stages
    ]


@pytest.mark.parametrize("divisor", ["the step's tokens", "another"])
@pytest.mark.parametrize("config", [HALF, PROTECTED, ONE_KEY], ids=["half", "protected", "one key"])
def test_the_swarms_gradient_is_that_of_the_mean_loss_over_the_steps_tokens(
    config: RunConfig, divisor: str, monkeypatch: pytest.MonkeyPatch
):
    """Also where a stage was visited by some keys only: dividing by its own visits would be another gradient."""
    seen: dict[int, torch.Tensor] = {}
    plain = replica_module.Replica.sealed

    def sealed(self: replica_module.Replica, total: torch.Tensor, tokens: int) -> object:
        own = tokens if divisor == "the step's tokens" else 2 * tokens
        mean = mean_gradient(total, own, torch.empty(total.numel(), dtype=torch.float64))
        seen.setdefault(self.stage, torch.cat([mean[o : o + n] for o, n in spans(self)]).float())
        return plain(self, total, tokens)

    def spans(replica: replica_module.Replica) -> list[tuple[int, int]]:
        return replica.compute.flat.spans(list(replica.compute.module.parameters()))

    monkeypatch.setattr(replica_module.Replica, "sealed", sealed)
    one_step = config.model_copy(update={"run": config.run.model_copy(update={"steps": 2})})
    virtual(one_step, APART)
    wanted = autograd_of_the_mean_loss(config, 0)
    near = [
        torch.allclose(seen[stage], wanted[stage], rtol=1e-4, atol=1e-7)
        for stage in range(config.model.stages + 1)
    ]
    empty = [not bool(gradient.any()) for gradient in wanted]
    if divisor == "the step's tokens":
        assert all(near)
    else:
        assert near == empty
    assert sum(empty) == (2 if config is ONE_KEY else 0)


# ---- a stage that nobody visits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", ["exact", "fast"])
def test_a_stage_that_nobody_visits_takes_no_adam_step(accumulation: str):
    """Neither weight decay nor old momentum moves it; its visits before and after show that it learns."""
    train = ONE_KEY.train.model_copy(update={"accumulation": accumulation})
    config = ONE_KEY.model_copy(update={"train": train})
    loop = Reference(config, corpus(), corpus().tokenizer.vocab_size)

    def flats() -> list[torch.Tensor]:
        return [torch.cat(replica.current.flats) for replica in loop.stages]

    before, moved = flats(), []
    for step in range(config.run.steps):
        loop.advance()
        after, visited = flats(), {0, *stage_sequences(config, step)[0]}
        facts: dict[int, StageSum] = {entry.stage: entry for entry in loop.sums}
        assert {stage for stage in range(5) if int(facts[stage].square_sum) > 0} == visited
        moved.append({stage for stage in range(5) if not torch.equal(before[stage], after[stage])})
        assert moved[-1] == visited
        before = after
    assert any(set.union(*moved[:step]) - moved[step] for step in range(1, len(moved)))


def test_over_two_steps_of_one_key_every_stage_is_visited():
    visited = [stage_sequences(ONE_KEY, step)[0] for step in range(2)]
    assert sorted(visited[0] + visited[1]) == [1, 2, 3, 4]


def test_the_cache_of_sequences_belongs_to_the_configuration():
    """Equal steps of two runs in one process must not be mixed up."""
    assert stage_sequences(HALF, 0) != stage_sequences(PROTECTED, 0)
    assert sequences_module._seeded.cache_info().currsize >= 2
