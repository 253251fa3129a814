"""The plain loop: routes that swap both ends as the swarm's do, to the bit, and going on from a given state."""

from dataclasses import replace
from pathlib import Path

import pytest

from swarmtrain.checkpoint.store import load, load_stage
from swarmtrain.core.errors import ConfigError, StateError
from swarmtrain.core.events import FaultInjected
from swarmtrain.core.schedule import gradient_norm
from swarmtrain.experiments import reference as reference_module
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.reference import Reference
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, simulate
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
SWAPPED = small_config(*TINY, "train.swap_ends=true", steps=3)

HALVES = (VirtualPeer("left", (0, 1, 2)), VirtualPeer("right", (3, 4)))
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
"""A peer of stages that are not adjacent is left and entered again on every route."""


def plain_loop(*overrides: str, steps: int = 4) -> Reference:
    return Reference(
        small_config(*TINY, *overrides, steps=steps), corpus(), corpus().tokenizer.vocab_size
    )


# ---- swapped ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fleet", [HALVES, PAIRS, APART], ids=["two", "four", "apart"])
def test_a_swarm_with_swapped_ends_equals_the_loop(fleet: tuple[VirtualPeer, ...]):
    run, yardstick = virtual(SWAPPED, fleet), known_reference(SWAPPED)
    assert sha_of(run) == yardstick.parameters_sha256
    assert losses_of(run) == yardstick.losses


@pytest.mark.parametrize(
    ("victim", "point"),
    [("left-b", "forward.done"), ("right-b", "backward.after_accumulate_before_reply")],
)
def test_a_kill_under_swapped_ends_changes_no_bit(victim: str, point: str):
    """A re-driven key takes its own route again: with another key's it would count at the wrong position."""
    fault = Fault("kill", (victim,), at_point=point, nth=5)
    run = simulate(SWAPPED, Scenario(PAIRS, faults=(fault,)), corpus())
    assert len(events_of(run, FaultInjected)) == 1 and len(run.outcomes) == 3
    assert not run.errors and not run.stalled
    assert sha_of(run) == known_reference(SWAPPED).parameters_sha256
    assert losses_of(run) == known_reference(SWAPPED).losses


def test_routes_matter(monkeypatch: pytest.MonkeyPatch):
    """A loop that went straight on would not equal the swarm: the comparisons above can fail."""
    straight = small_config(*TINY, steps=3)
    monkeypatch.setattr(reference_module, "stage_sequences", lambda config, step: ((1, 2, 3, 4),))
    assert reference(SWAPPED).losses == known_reference(straight).losses
    assert reference(SWAPPED).losses != losses_of(virtual(SWAPPED, HALVES))


# ---- going on from a state ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swap", ["false", "true"])
def test_a_loop_that_goes_on_from_a_state_equals_one_that_never_stopped(swap: str):
    whole, early, later = (plain_loop(f"train.swap_ends={swap}") for _ in range(3))
    losses = [step.loss for step in whole.train()]
    first = [early.advance().loss, early.advance().loss]
    later.load([early.state(stage) for stage in range(5)], early.step)
    rest = list(later.train())
    assert [step.step for step in rest] == [2, 3]
    assert [*first, *(step.loss for step in rest)] == losses
    assert later.parameters_sha256() == whole.parameters_sha256()


def test_a_loop_goes_back_to_an_earlier_state_of_its_own():
    loop = plain_loop()
    loop.advance()
    kept = [loop.state(stage) for stage in range(5)]
    losses = [step.loss for step in loop.train()]
    digest = loop.parameters_sha256()
    loop.load(kept, 1)
    assert [step.loss for step in loop.train()] == losses
    assert loop.parameters_sha256() == digest


def test_a_checkpoint_in_the_middle_says_its_step(tmp_path: Path):
    loop, other = plain_loop(), plain_loop()
    loop.advance()
    loop.save(tmp_path)
    checkpoint = load(tmp_path)
    states = [load_stage(checkpoint.folder, stage) for stage in range(5)]
    other.load(states, checkpoint.manifest.step)
    assert (other.step, other.parameters_sha256()) == (1, loop.parameters_sha256())


def test_one_stage_may_be_replaced_alone():
    loop, other = plain_loop(), plain_loop("run.seed=8")
    before = [loop.stages[stage].digest() for stage in range(5)]
    loop.replace(other.state(3))
    after = [loop.stages[stage].digest() for stage in range(5)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, False, True]
    assert after[3] == other.stages[3].digest()


def test_sums_are_those_before_clipping():
    loop = plain_loop("optimizer.clip_norm=0.001")
    assert loop.sums == ()
    loop.advance()
    assert [entry.stage for entry in loop.sums] == [0, 1, 2, 3, 4]
    assert gradient_norm(loop.sums) > 0.1


def test_states_that_do_not_fit_change_nothing():
    loop, wide = plain_loop(), plain_loop("model.width=32", "model.ffn_width=32")
    digest = loop.parameters_sha256()
    states = [loop.state(stage) for stage in range(5)]
    for wrong in (
        states[:-1],
        [*states, states[0]],
        [*states[:-1], wide.state(4)],
        [*states[:-1], replace(states[4], moment1=None, moment2=None)],
    ):
        with pytest.raises(StateError):
            loop.load(wrong, 3)
        assert (loop.step, loop.parameters_sha256()) == (0, digest)


def test_planned_visits_do_not_follow_from_the_configuration() -> None:
    config = small_config("paths.skip=0.5", "paths.visits=planned", "planner.use=true")
    with pytest.raises(ConfigError, match="planned"):
        Reference(config, corpus(), corpus().tokenizer.vocab_size)
    given = Reference(
        config, corpus(), corpus().tokenizer.vocab_size, lambda step: ((1,), (2,)) * 3
    )
    assert given.advance().tokens > 0
