"""Several islands in one process: what equals the plain loop to the bit, and that all end equal whatever happens."""

import functools
from dataclasses import replace

import pytest
import torch

from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import ConfigError, StateError
from swarmtrain.data.stream import held_out_batches
from swarmtrain.experiments import island as island_module
from swarmtrain.experiments.island import IslandPlan
from swarmtrain.experiments.islands import Islands, IslandsSetting, synchronous
from swarmtrain.experiments.reference import Reference
from swarmtrain.outer.member import FragmentMember, RoundSettings
from swarmtrain.outer.merge import Form
from swarmtrain.outer.optimizer import AVERAGE, SHORT, OuterOptimizer
from swarmtrain.outer.payload import Sender
from swarmtrain.wire.codecs import CODECS
from tests.experiments.island_worlds import TINY
from tests.experiments.runs import corpus, small_config

EXACT = RoundSettings(AVERAGE, "none")
ALONE = (IslandPlan(),)
PAIR = (IslandPlan(), IslandPlan())
TWINS = (IslandPlan(), *3 * (IslandPlan(data_island=0),))


def tiny(*overrides: str, steps: int = 8) -> RunConfig:
    torch.set_num_threads(1)
    return small_config(*TINY, *overrides, steps=steps)


def islands(setting: IslandsSetting, *overrides: str, steps: int = 8) -> Islands:
    return Islands(tiny(*overrides, steps=steps), corpus(), corpus().tokenizer.vocab_size, setting)


def trained(setting: IslandsSetting, *overrides: str, steps: int = 8) -> Islands:
    run = islands(setting, *overrides, steps=steps)
    list(run.train())
    return run


@functools.cache
def plain_sha(*overrides: str) -> str:
    loop = Reference(tiny(*overrides), corpus(), corpus().tokenizer.vocab_size)
    list(loop.train())
    return loop.parameters_sha256()


# ---- one island is the plain loop, R identical ones are one ---------------------------------------------------------


@pytest.mark.parametrize("skip", [(), ("paths.skip=0.5",), ("train.swap_ends=true",)])
def test_one_island_with_plain_averages_every_step_is_synchronous_training(skip) -> None:
    run = trained(IslandsSetting(ALONE, EXACT, 1), *skip)
    assert run.parameters_sha256() == plain_sha(*skip)
    assert run.active[0].parameters_sha256() == plain_sha(*skip)
    assert len(run.records) == 3 * 8


@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize("fragments", [1, 2])
def test_and_so_it_is_with_any_rounds(delay: int, fragments: int) -> None:
    """Fragmented, delayed, three steps a round: alone, plain averages change nothing."""
    setting = IslandsSetting(ALONE, EXACT, 3, fragments=fragments, delay_steps=delay)
    run = trained(setting)
    assert run.active[0].parameters_sha256() == plain_sha()
    assert is_outer_whole(setting) == (run.parameters_sha256() == plain_sha())


def is_outer_whole(setting: IslandsSetting) -> bool:
    """Whether the last step is in the outer parameters: with a delay the last round is made before it."""
    return setting.delay_steps == 0


def test_that_would_not_hold_for_differences(monkeypatch) -> None:
    monkeypatch.setattr(Form, "of", staticmethod(lambda codec: Form.DIFFERENCE))
    assert trained(IslandsSetting(ALONE, EXACT, 1)).parameters_sha256() != plain_sha()


def test_nor_if_who_has_not_moved_took_the_way_round(monkeypatch) -> None:
    run = trained(IslandsSetting(PAIR, EXACT, 2), steps=4)
    heads = {island.parameters_sha256() for island in run.active.values()}
    assert heads == {run.parameters_sha256()}
    merge = FragmentMember.merge
    unmoved = lambda self, m, x, clock, *codec: merge(self, m, x, 99, *codec)  # noqa: E731
    monkeypatch.setattr(FragmentMember, "merge", unmoved)
    run = trained(IslandsSetting(PAIR, EXACT, 2), steps=4)
    assert run.active[0].parameters_sha256() != run.parameters_sha256()


VARIANTS = {
    "plain": IslandsSetting(TWINS, EXACT, 2),
    "int4": IslandsSetting(TWINS, RoundSettings(OuterOptimizer(), "int4", "int4"), 2),
    "top64": IslandsSetting(TWINS, RoundSettings(AVERAGE, "top64"), 4),
    "rank8": IslandsSetting(TWINS, RoundSettings(SHORT, "rank8"), 4),
    "late": IslandsSetting(TWINS, RoundSettings(SHORT, "ternary"), 2, delay_steps=2),
    "streaming": IslandsSetting(
        TWINS, RoundSettings(SHORT, "int4", merge_factor=0.5), 8, 2, staggered=True, delay_steps=1
    ),
}


@pytest.mark.parametrize("setting", VARIANTS.values(), ids=VARIANTS)
def test_identical_islands_are_one_to_the_bit(setting: IslandsSetting) -> None:
    alone = trained(replace(setting, islands=ALONE))
    together = trained(setting)
    assert together.parameters_sha256() == alone.parameters_sha256()
    shas = {island.parameters_sha256() for island in together.active.values()}
    assert shas == {alone.active[0].parameters_sha256()}


# ---- every variant: all end equal, learn, and repeat ----------------------------------------------------------------

MIXED = {
    "codecs": IslandsSetting(PAIR, RoundSettings(SHORT, "int4", "int4"), 4),
    "late": IslandsSetting(PAIR, RoundSettings(SHORT, "none"), 4, delay_steps=4),
    "fragments": IslandsSetting(
        PAIR, RoundSettings(SHORT, "none", merge_factor=0.5), 6, 2, True, delay_steps=2
    ),
    "slow": IslandsSetting((IslandPlan(), IslandPlan(own_steps=1), IslandPlan(own_steps=3)), EXACT, 4),
    "slow fragments": IslandsSetting(
        (IslandPlan(), IslandPlan(own_steps=2)), RoundSettings(SHORT, "none"), 6, 2, True, 3
    ),
    "missed": IslandsSetting(
        (IslandPlan(), IslandPlan(misses=frozenset({0, 2}))), RoundSettings(SHORT, "int4"), 2
    ),
    "joins and leaves": IslandsSetting(
        (IslandPlan(leaves_at_round=3), IslandPlan(), IslandPlan(joins_at_round=2)),
        RoundSettings(OuterOptimizer(), "none"), 2, delay_steps=2,
    ),
    "away": IslandsSetting((IslandPlan(), IslandPlan(away=range(1, 3))), EXACT, 2, delay_steps=1),
}  # fmt: skip


@pytest.mark.parametrize("setting", MIXED.values(), ids=MIXED)
def test_all_islands_end_equal_and_a_second_run_is_the_same(setting: IslandsSetting) -> None:
    """Digests are compared after every round by the loop itself; at the end of the run there is one model."""
    run = trained(setting, steps=12)
    heads = {island.parameters_sha256() for island in run.active.values()}
    assert is_outer_whole(setting) == (heads == {run.parameters_sha256()})
    assert trained(setting, steps=12).parameters_sha256() == run.parameters_sha256()
    alone = trained(replace(setting, islands=ALONE), steps=12)
    assert run.parameters_sha256() != alone.parameters_sha256()
    places = {(record.due.stage, record.due.fragment) for record in run.records}
    for place in places:
        numbers = [r.due.round for r in run.records if (r.due.stage, r.due.fragment) == place]
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_every_codec_trains(codec: str) -> None:
    settings = RoundSettings(AVERAGE if codec.startswith("top") else SHORT, codec)
    run = trained(IslandsSetting(PAIR, settings, 4))
    assert all(record.payload_bytes > 0 and record.payloads == 2 for record in run.records)
    batches = list(held_out_batches(corpus(), 4, 64))[:1]
    before = islands(IslandsSetting(PAIR, settings, 4)).evaluate(batches)
    assert run.evaluate(batches) < before
    assert run.active[0].parameters_sha256() == run.parameters_sha256()


# ---- data, tokens, schedules ----------------------------------------------------------------------------------------


def test_islands_share_out_the_microbatches_of_the_synchronous_run(monkeypatch) -> None:
    keys: list[tuple[int, int]] = []
    inner = Reference._microbatch

    def recorded(self: Reference, step: int, index: int):
        keys.append((step, index))
        return inner(self, step, index)

    monkeypatch.setattr(Reference, "_microbatch", recorded)
    trained(IslandsSetting((IslandPlan(),) * 3, EXACT, 2), "paths.skip=0.5", steps=4)
    assert sorted(keys) == [(step, index) for step in range(4) for index in range(6)]
    keys.clear()
    list(synchronous(tiny(steps=4), corpus(), corpus().tokenizer.vocab_size, 3).train())
    assert sorted(keys) == [(step, index) for step in range(4) for index in range(6)]


def test_a_slow_island_makes_its_share_of_steps_and_weighs_by_tokens() -> None:
    setting = IslandsSetting((IslandPlan(), IslandPlan(own_steps=1)), EXACT, 4)
    run = trained(setting)
    assert [run.active[number].inner_steps for number in (0, 1)] == [8, 2]
    assert {record.tokens for record in run.records} == {5 * 2 * 8}


def test_tokens_are_those_of_the_stage() -> None:
    """With half of the stages left out, each middle stage gets half of the edge's tokens."""
    run = trained(IslandsSetting(PAIR, EXACT, 8), "paths.skip=0.5")
    tokens = {record.due.stage: record.tokens for record in run.records}
    assert tokens[0] == 2 * 8 * 16 and tokens[1] + tokens[2] == tokens[0]


def test_a_stage_that_saw_nothing_has_no_outer_step(monkeypatch) -> None:
    monkeypatch.setattr(island_module, "stage_sequences", lambda config, step: ((1,),))
    run = trained(IslandsSetting(PAIR, RoundSettings(SHORT, "none"), 4))
    by_stage = {record.due.stage: record for record in run.records}
    assert by_stage[2].tokens == 0 and by_stage[2].members == () and by_stage[1].tokens > 0
    states = [run.active[0].members[stage, 0].state for stage in range(3)]
    assert [state.steps for state in states] == [2, 2, 0]
    assert [state.round for state in states] == [2, 2, 2]
    fresh = islands(IslandsSetting(PAIR, EXACT, 4)).active[0].stages[2].digest()
    assert run.active[0].stages[2].digest() == run.active[1].stages[2].digest() == fresh


def test_void_keys_do_not_weigh() -> None:
    run = islands(IslandsSetting(ALONE, EXACT, 2))
    island = run.active[0]
    with torch.no_grad():
        island.edge.module.embed.weight.mul_(float("nan"))
    run.advance()
    assert island.tokens.total() == 0


def test_a_joiner_counts_its_own_steps_and_uses_the_learning_rate_of_the_run() -> None:
    setting = IslandsSetting((IslandPlan(), IslandPlan(joins_at_round=2)), EXACT, 2)
    run = trained(setting)
    joiner = run.active[1]
    assert joiner.inner_steps == 4
    ours, theirs = joiner.scalars(5), run.active[0].scalars(5)
    assert ours.learning_rate == theirs.learning_rate
    assert ours.bias_correction2 < theirs.bias_correction2
    first = [record for record in run.records if record.due.step == 4]
    assert all(record.members == ("island-0000",) for record in first)
    later = [record for record in run.records if record.due.step == 6]
    assert all(record.members == ("island-0000", "island-0001") for record in later)


def test_a_joiner_with_settled_looking_moments_would_jump(monkeypatch) -> None:
    """Why bias corrections go by an island's own steps: with beta2 = 0.999 the first update would be far larger."""

    def first_update(own: int) -> float:
        run = islands(IslandsSetting(ALONE, EXACT, 1), "optimizer.beta2=0.999", steps=1000)
        island = run.active[0]
        before = island.stages[1].current.parameters.clone()
        monkeypatch.setattr(island, "inner_steps", own)
        island.advance_from(500)
        return float((island.stages[1].current.parameters - before).norm())

    assert first_update(500) > 1.8 * first_update(0)


def test_a_lost_payload_is_made_up_for(monkeypatch) -> None:
    """With learning rate 1 and no momentum the group ends where it would with a late arrival, not without it."""
    calls = []
    lost = Sender.lost
    monkeypatch.setattr(Sender, "lost", lambda self, *rest: (calls.append(1), lost(self, *rest))[1])
    setting = IslandsSetting((IslandPlan(), IslandPlan(misses=frozenset({1}))), EXACT, 2)
    run = trained(setting)
    assert len(calls) == 3, "once for each stage"
    missed = [record.members for record in run.records if record.due.round == 1]
    assert missed == 3 * [("island-0000",)]
    left = [
        member.sender.residual.value.count_nonzero() for member in run.active[1].members.values()
    ]
    assert not any(left)
    monkeypatch.setattr(Sender, "lost", lambda self, *rest: None)
    assert trained(setting).parameters_sha256() != run.parameters_sha256()


def test_islands_that_part_are_noticed(monkeypatch) -> None:
    merge = FragmentMember.merge

    def faulty(self: FragmentMember, *result) -> None:
        merge(self, *result)
        if self.member == "island-0001":
            self.state.parameters[0] += 1e-3

    monkeypatch.setattr(FragmentMember, "merge", faulty)
    with pytest.raises(StateError, match="outer parameters differ"):
        trained(IslandsSetting(PAIR, EXACT, 2))


@pytest.mark.parametrize("delay", [0, 2])
def test_a_trained_model_is_where_islands_may_start(delay: int) -> None:
    loop = Reference(tiny(), corpus(), corpus().tokenizer.vocab_size)
    for _ in range(4):
        loop.advance()
    states = [loop.state(stage) for stage in range(3)]
    run = islands(IslandsSetting(ALONE, EXACT, 2, delay_steps=delay))
    run.load(states, 4)
    list(run.train())
    assert run.active[0].parameters_sha256() == plain_sha()
    assert [record.due.round for record in run.records if record.due.stage == 0] == [2, 3]
    with pytest.raises(ConfigError, match="do not begin"):
        islands(IslandsSetting(ALONE, EXACT, 3)).load(states, 4)


@pytest.mark.parametrize(
    "plans",
    [(), (IslandPlan(joins_at_round=1),), (IslandPlan(leaves_at_round=1),), (IslandPlan(own_steps=9),)],
)  # fmt: skip
def test_islands_that_cannot_be_are_refused(plans) -> None:
    with pytest.raises(ConfigError):
        trained(IslandsSetting(plans, EXACT, 2))
