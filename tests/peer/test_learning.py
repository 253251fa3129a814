"""Newcomers learn their stages outside of any roster: nobody waits for them, and they learn what was decided."""

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.events import (
    Event,
    Learned,
    Noted,
    Recovered,
    RoundMerged,
    StateApplied,
    StepCommitted,
)
from swarmtrain.experiments.checker import check
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.scenario import read_scenario
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from swarmtrain.peer import learning
from swarmtrain.peer.teaching import Lesson, Teaching
from swarmtrain.transport.link import Buffer
from swarmtrain.transport.requests import LearnRequest, PieceReply, PieceRequest, Status
from tests.experiments.runs import corpus, reference, small_config

LARGE = read_scenario(Path(__file__).parents[2] / "deploy" / "scenarios" / "joining.toml")
T4 = LARGE.scenario.peers[-1].machine
assert T4 is not None
MACHINE = T4.model_copy(update={"memory_bytes": 40 << 30})
"""Where sums are exact a T4 would have no room for the edge, by which stages are counted."""

STAGES = 4
USUAL_STEPS = 3
"""Steps that pass before anybody joins; the first one takes longer, since links are dialled in it."""

Script = Callable[[Stage], Awaitable[None]]


def large_config(*settings: str, steps: int = 9) -> RunConfig:
    """A quarter of the layers of the scenario on a quarter of its machines: a step, and a state, as long as there."""
    sizes = [f"model.stages={STAGES}", f"run.steps={steps}", "train.microbatches=96"]
    return load_config([LARGE.run], [*LARGE.overrides, *sizes, *settings])


def large_scenario(replicas: int = 3, stages: int = STAGES) -> Scenario:
    scenario = LARGE.scenario
    assert scenario.charged is not None
    model = scenario.charged.model.model_copy(update={"stages": stages, "blocks_per_stage": 1})
    edges = [peer for peer in scenario.peers if peer.stages == (0,)][:2]
    others = [peer for peer in scenario.peers if peer.stages is None][: stages * replicas]
    pinned = [
        replace(peer, stages=(1 + i % stages,), machine=MACHINE) for i, peer in enumerate(others)
    ]
    charged = replace(scenario.charged, model=model)
    return replace(scenario, peers=(*edges, *pinned), charged=charged)


def newcomer(number: int, *stages: int) -> VirtualPeer:
    return VirtualPeer(f"new-{number}", stages or None, machine=MACHINE)


def run_with(config: RunConfig, scenario: Scenario, script: Script) -> VirtualRun:
    def begin(stage: Stage) -> "asyncio.Task[None]":
        return asyncio.create_task(script(stage))  # type: ignore[arg-type]

    async def main() -> VirtualRun:
        return await play(config, scenario, corpus(), begin)

    with asyncio.Runner(loop_factory=MachineLoop) as runner:
        run = runner.run(main())
    assert not run.errors and not run.stalled and not check(run.journal.lines)
    assert len(run.commits) == config.run.steps
    return run


def of(run: VirtualRun, kind: type[Event]) -> list[Event]:
    return [event for _, _, event in run.events if isinstance(event, kind)]


async def until(stage: Stage, seen: Callable[[Event], bool]) -> None:
    while not any(seen(event) for _, _, event in stage.run.events):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def until_committed(stage: Stage, step: int) -> None:
    await until(stage, lambda event: isinstance(event, StepCommitted) and event.step == step)


def joining(*peers: VirtualPeer) -> Script:
    async def script(stage: Stage) -> None:
        await until_committed(stage, USUAL_STEPS - 1)
        await asyncio.sleep(7.0)
        for peer in peers:
            stage.add(peer)

    return script


def step_seconds(run: VirtualRun) -> list[float]:
    ended = [at for at, _, event in run.events if isinstance(event, StepCommitted)]
    return [after - before for before, after in itertools.pairwise(ended)]


def longest_share(run: VirtualRun) -> float:
    """The longest step from the one on in which somebody joins, over the longest before it."""
    seconds = step_seconds(run)
    return max(seconds[USUAL_STEPS - 1 :]) / max(seconds[: USUAL_STEPS - 1])


def expect_same_curve(run: VirtualRun, config: RunConfig) -> None:
    yardstick = reference(config)
    assert [commit.loss for commit in run.commits] == list(yardstick.losses)
    assert run.commits[-1].parameters_sha256 == yardstick.parameters_sha256


def digests_of(run: VirtualRun, peer: str) -> dict[tuple[int, int], str]:
    """What `peer` held, by the step that made it and by stage."""
    return {
        (event.step, stage): digest
        for _, who, event in run.events
        if isinstance(event, StateApplied) and who == peer
        for stage, digest in event.stages
    }


def learners(run: VirtualRun) -> set[str]:
    return {event.peer for event in of(run, Learned)}  # type: ignore[attr-defined]


# ---- nobody waits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [(1,), (1, 2, 3, 4, 1)], ids=["one", "five at once"])
def test_no_step_takes_a_fifth_longer_while_somebody_joins_with_a_large_state(
    stages: Sequence[int],
) -> None:
    newcomers = [newcomer(number, stage) for number, stage in enumerate(stages)]
    run = run_with(large_config(), large_scenario(), joining(*newcomers))
    assert len(learners(run)) == len(stages), "all are in the roster"
    assert longest_share(run) <= 1.2, step_seconds(run)


def test_without_learning_they_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "RESTS", ())
    run = run_with(large_config(), large_scenario(), joining(newcomer(0, 1)))
    assert not learners(run) and of(run, Recovered)
    assert longest_share(run) > 1.2, step_seconds(run)


# ---- what they learn is what was decided ----------------------------------------------------------------------------


def expect_learnt(run: VirtualRun, stage: Stage, *names: str) -> None:
    """Each of them came in by learning, and had the digests of its siblings from then on, also on the way."""
    for name in names:
        peer = stage.names[name]
        mine = digests_of(run, peer)
        theirs = [digests_of(run, other) for other in stage.names.values() if other != peer]
        assert peer in learners(run) and mine
        for key, digest in mine.items():
            assert {known[key] for known in theirs if key in known} <= {digest}, (name, key)
        last = {stage for step, stage in mine if step == run.commits[-1].step}
        assert last == set(stage.sessions[name].runtime.member.stages)  # type: ignore[union-attr]


def test_a_joiner_has_the_digests_of_its_siblings_and_the_model_is_that_of_the_plain_loop() -> None:
    config, stages = large_config("train.accumulation=exact", steps=9), []

    async def script(stage: Stage) -> None:
        stages.append(stage)
        await joining(newcomer(0, 1))(stage)

    run = run_with(config, large_scenario(), script)
    expect_learnt(run, stages[0], "new-0")
    expect_same_curve(run, config)
    [event] = of(run, Learned)
    assert isinstance(event, Learned) and event.sum_bytes > 0, "some sums were applied on the way"


def lesson_of(stage: Stage, number: int) -> dict[str, Lesson]:
    """By machine, what is kept of a stage for newcomers."""
    found = {}
    for name, session in stage.sessions.items():
        if stage.is_running(name) and session.runtime is not None:
            lesson = session.runtime.teaching.lessons.get(number)
            if lesson is not None:
                found[name] = lesson
    return found


async def until_taught(stage: Stage, number: int) -> dict[str, Lesson]:
    while not (found := lesson_of(stage, number)):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return found


@pytest.mark.parametrize("killed", [1, 3], ids=["one donor", "every donor of its own"])
def test_a_donor_that_dies_in_the_middle_of_the_download_is_replaced(killed: int) -> None:
    """With all of them gone the newcomer begins anew with whom they had no time to teach."""
    config, stages, victims = large_config("train.accumulation=exact", steps=9), [], []

    async def script(stage: Stage) -> None:
        stages.append(stage)
        await until_committed(stage, USUAL_STEPS - 1)
        stage.add(newcomer(0, 1))
        lessons = await until_taught(stage, 1)
        await asyncio.sleep(15.0)
        assert all(lesson.copying is not None for lesson in lesson_of(stage, 1).values())
        assert not of(stage.run, Recovered), "the download is under way"
        for name in list(lessons)[:killed]:
            victims.append(name)
            stage.nemesis.kill(name)

    replicas = 3 if killed == 1 else 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "MOST_DONORS", 3)
        run = run_with(config, large_scenario(replicas), script)
    assert len(victims) == killed and set(victims) == set(stages[0].nemesis.dead)
    expect_learnt(run, stages[0], "new-0")
    expect_same_curve(run, config)
    failures = [event for event in of(run, Noted) if event.what == "learning failed"]  # type: ignore[attr-defined]
    assert bool(failures) is (killed == 3)


def test_a_sum_that_is_not_the_decided_one_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    piece, forged = Teaching.piece, list[int]()

    async def forging(self: Teaching, request: PieceRequest) -> "tuple[PieceReply, Buffer] | None":
        found = await piece(self, request)
        if found is None or forged or not found[1]:
            return found
        forged.append(request.stage)
        flipped = bytearray(found[1])
        flipped[0] ^= 1
        digest = hashlib.sha256(flipped).digest()[: len(found[0].digest)]
        return replace(found[0], digest=digest), flipped

    monkeypatch.setattr(Teaching, "piece", forging)
    config = large_config(steps=9)
    run = run_with(config, large_scenario(), joining(newcomer(0, 1)))
    assert forged == [1]
    assert any(event.what == "learning failed" for event in of(run, Noted))  # type: ignore[attr-defined]
    assert learners(run), "it began anew"


ROUNDS = ("model.stages=2", "train.microbatches=24", "train.accumulation=exact")


@pytest.mark.parametrize(
    "inner_steps",
    [
        pytest.param(6, marks=pytest.mark.slow, id="a round begins meanwhile"),
        pytest.param(4, id="one is merged"),
    ],
)
def test_who_joins_a_run_with_outer_rounds_learns_what_they_keep_as_well(inner_steps: int) -> None:
    """Outer parameters, momentum, residuals and round: it sends and merges what its siblings send and merge."""
    stages: list[Stage] = []

    async def script(stage: Stage) -> None:
        stages.append(stage)
        await joining(newcomer(0, 1))(stage)

    config = large_config(*ROUNDS, f"outer.inner_steps={inner_steps}", steps=11)
    run = run_with(config, large_scenario(stages=2), script)
    expect_learnt(run, stages[0], "new-0")
    assert longest_share(run) <= 1.2, step_seconds(run)
    peer = stages[0].names["new-0"]
    merged = [(who, event) for _, who, event in run.events if isinstance(event, RoundMerged)]
    mine = {(e.stage, e.round): e.outer for who, e in merged if who == peer}
    theirs = {(e.stage, e.round): e.outer for who, e in merged if who != peer}
    assert mine and mine == {key: theirs[key] for key in mine}
    begun_anew = [e for e in of(run, Noted) if e.what == "learning failed"]  # type: ignore[attr-defined]
    assert bool(begun_anew) is (inner_steps == 4)


# ---- what is left when it cannot learn ------------------------------------------------------------------------------


def test_who_is_never_let_in_enters_the_next_roster_one_sum_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps may be sealed all the time: then it fetches one sum while a step is open, and no state."""
    monkeypatch.setattr(learning, "MOST_REFUSED", 0)
    config = large_config(steps=9)
    run = run_with(config, large_scenario(), joining(newcomer(0, 1)))
    assert learners(run) and len(of(run, Recovered)) == 1


def test_without_memory_to_spare_nobody_teaches_and_newcomers_join_as_members_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Teaching, "_has_room", lambda self, replica: False)
    run = run_with(large_config(steps=7), large_scenario(), joining(newcomer(0, 1)))
    assert not learners(run) and of(run, Recovered)
    assert run.outcomes["new-0"].finished


# ---- what donors keep -----------------------------------------------------------------------------------------------


def test_one_newcomer_at_a_time_and_what_is_kept_for_it_goes() -> None:
    """A second one hears BUSY; without a sign of life, or when it is too slow, everything is dropped."""
    config, seen = small_config("links.silence_seconds=5", steps=12), list[object]()

    async def script(stage: Stage) -> None:
        await until_committed(stage, 1)
        name = next(name for name in stage.sessions if name != "edge")
        runtime = stage.sessions[name].runtime
        assert runtime is not None
        teaching = runtime.teaching
        first, second = stage.names["edge"], stage.names["other"]
        begun = await teaching.answer(first, LearnRequest("begin", 1))
        seen.append((await teaching.answer(second, LearnRequest("look", 1))).status)
        while runtime.member.step == begun.step or runtime.member.is_busy:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        reply = await teaching.answer(first, LearnRequest("commit", 1, begun.step))
        seen.append(reply.commit is not None and reply.commit.step == begun.step)
        seen.append(teaching.lessons[1].copying is None)
        await asyncio.sleep(5.2)
        seen.append(not teaching.lessons)
        await teaching.answer(first, LearnRequest("begin", 1))
        for _ in range(200):
            await teaching.answer(first, LearnRequest("hold", 1))
            if 1 not in teaching.lessons:
                break
            lesson = teaching.lessons[1]
            assert lesson.bytes <= 3 * lesson.state_bytes
            await asyncio.sleep(0.1)
        seen.append(not teaching.lessons)

    scenario = Scenario((VirtualPeer("edge", (0, 1, 2)), VirtualPeer("other", (1, 2))))
    run_with(config, scenario, script)
    assert seen == [Status.BUSY, True, True, True, True]
