"""What events cost islands that train together: one is killed in a round, is frozen, joins late, or is slow.

    python -m benchmarks.island_events [--seeds 1 2] [--steps 80] [--jobs 1] [--out benchmarks/results]

Four islands of two machines each run the peers' whole program in virtual time, on lines of 20 Mbit/s and 50 ms, and
train a small model on the default corpus with rounds of ten steps. Losses are real, on held-out text, of the outer
parameters that all islands have in common. A run that an event costs tokens is compared with a calm one that is
shorter, so that both end their learning rate's schedule with equal tokens, to the nearest step. The control is a run
in which nothing happens and one island was never there: what it gains at equal tokens, fewer islands gain by more
steps, and no event has part in it. Beside the calm run of as many steps an event shows what the tokens were worth that
it cost. Waits are those of the islands that nothing happened to: what their longest step took beyond a calm run's usual
one.

The same events once more in three quarters of these steps, where stragglers get what the overlap leaves: results come
in four steps late, and there is no grace window. In the last round nothing is left of the overlap: then they get a
fixed time (`outer.slack`).
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.events import PeerJoined, StepCommitted
from swarmtrain.data.stream import Corpus, held_out_batches, load_corpus
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.machines import MachineLoop
from swarmtrain.experiments.reference import Reference
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun
from swarmtrain.model.text import evaluate

ISLANDS = 4
HIT = ISLANDS - 1
"""The island that things happen to."""
INNER_STEPS = 10
GRACE_SECONDS = 6.0
SLACK_DELAY_STEPS = 4
EVENTS = ("killed", "frozen", "late", "slow")
ABSENT = "never there"
"""The control."""
JUDGED_ROWS, JUDGED_BATCHES = 16, 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to: the loss is that of the merged model, in nats a token."""

    steps: int
    tokens: int
    loss: float
    usual_seconds: float
    longest_seconds: float
    """Of a step of the islands that nothing happened to, before the last round."""
    last_seconds: float
    """Of such a step in the last round."""


@dataclass(frozen=True, slots=True)
class Row:
    """An event beside the calm runs of as many tokens, and of as many steps."""

    seed: int
    event: str
    tokens: int
    loss: float
    calm_loss: float
    stepwise_calm_loss: float
    wait_seconds: float

    @property
    def worse_percent(self) -> float:
        return 100 * (self.loss / self.calm_loss - 1)

    @property
    def stepwise_percent(self) -> float:
        return 100 * (self.loss / self.stepwise_calm_loss - 1)


@dataclass(frozen=True, slots=True)
class Wait:
    """How long an event kept the others waiting, before the last round and in it."""

    seed: int
    event: str
    seconds: float
    last_seconds: float


def config_of(
    seed: int, steps: int, delay_steps: int = 1, grace_seconds: float = GRACE_SECONDS
) -> RunConfig:
    return load_config(
        (),
        [
            f"run.seed={seed}", f"run.steps={steps}", "model.stages=2", "model.width=64",
            "model.heads=4", "model.kv_heads=2", "model.ffn_width=160",
            "train.microbatches=2", "train.microbatch_size=4", "train.sequence_length=64",
            "train.accumulation=fast", "optimizer.learning_rate=4e-3",
            f"optimizer.warmup_steps={max(2, steps // 10)}",
            f"outer.inner_steps={INNER_STEPS}", f"outer.delay_steps={delay_steps}",
            f"outer.grace_seconds={grace_seconds}",
            "links.heartbeat_seconds=0.5", "links.silence_seconds=2", "links.connect_seconds=2",
        ],
    )  # fmt: skip


def machines(event: str) -> list[VirtualPeer]:
    """Two an island: the edge, and both middle stages."""
    return [
        VirtualPeer(
            f"{island}-{'edge' if stages == (0,) else 'middle'}",
            stages,
            slowness=5.0 if event == "slow" and island == HIT else 1.0,
            island=island,
        )
        for island in range(ISLANDS)
        if not (event == ABSENT and island == HIT)
        for stages in ((0,), (1, 2))
    ]


def faults_of(event: str, steps: int) -> tuple[Fault, ...]:
    """In the round in the middle of the run: the contribution is chosen when its island is killed, and made but not
    offered when it is frozen, for one round and a half."""
    middle = max(1, steps // INNER_STEPS // 2)
    # The machine of two stages passes a point of a round twice.
    passes = ((f"{HIT}-edge", middle), (f"{HIT}-middle", 2 * middle - 1))
    match event:
        case "killed":
            return tuple(
                Fault("kill", (name,), at_point="round.collected", nth=nth) for name, nth in passes
            )
        case "frozen":
            return tuple(
                Fault("freeze", (name,), at_point="round.sent", nth=nth, duration_seconds=15.0)
                for name, nth in passes
            )
        case _:
            return ()


def joining(
    late: Sequence[VirtualPeer], seconds: float
) -> "Callable[[Stage], asyncio.Future[None]]":
    """A script that adds machines."""

    def script(stage: Stage) -> "asyncio.Future[None]":
        async def join() -> None:
            await asyncio.sleep(seconds)
            for peer in late:
                stage.add(peer)

        return asyncio.ensure_future(join())

    return script


@lru_cache(maxsize=1)
def corpus() -> Corpus:
    return load_corpus(config_of(1, INNER_STEPS).data, None)


def play(event: str, config: RunConfig) -> tuple[Stage, VirtualRun]:
    """A run of the peers with one event; "" is the calm one. Raises AssertionError where it does not end."""
    loop, scene = MachineLoop(), list[Stage]()
    peers = machines(event)
    late = [peer for peer in peers if peer.island == HIT] if event == "late" else []
    world = Scenario(
        tuple(peer for peer in peers if peer not in late),
        latency_seconds=0.05,
        bytes_per_second=20e6 / 8,
        faults=faults_of(event, config.run.steps),
        stall_seconds=600,
        patience_seconds=200,
    )

    async def main() -> VirtualRun:
        scene.append(Stage(config, world, corpus()))
        # A little into a round: a step takes about a second here.
        script = joining(late, config.run.steps / 3 + 3.0) if late else None
        return await scene[0].play(script)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        run = runner.run(main())
    # The second machine of the island that is killed may give up before it comes to the point where it would die.
    doomed = {peer.name for peer in peers if event == "killed" and peer.island == HIT}
    unfinished = [name for name, end in run.outcomes.items() if not end.finished]
    stranded = [name for name in unfinished if name not in doomed]
    assert not (run.stalled or run.errors or stranded), f"{run.stalled} {run.errors} {stranded}"
    return scene[0], run


def outcome_of(event: str, config: RunConfig) -> Outcome:
    scene, run = play(event, config)
    island_of = {peer: e.island for _, peer, e in run.events if isinstance(e, PeerJoined)}
    steps = {
        (island_of[peer], e.step): e for _, peer, e in run.events if isinstance(e, StepCommitted)
    }
    # The first step waits for peers, and for them to measure.
    others = [(step, e.seconds) for (island, step), e in steps.items() if island != HIT and step]
    last_from = config.run.steps - INNER_STEPS
    return Outcome(
        steps=config.run.steps,
        tokens=sum(event.tokens for event in steps.values()),
        loss=merged_loss(scene, config),
        usual_seconds=statistics.median(seconds for _, seconds in others),
        longest_seconds=max(seconds for step, seconds in others if step < last_from),
        last_seconds=max(seconds for step, seconds in others if step >= last_from),
    )


def merged_loss(scene: Stage, config: RunConfig) -> float:
    """On held-out text, of the outer parameters at the first island, in nats a token."""
    loop = Reference(config, corpus(), corpus().tokenizer.vocab_size)
    for name, session in scene.sessions.items():
        runtime = session.runtime
        if not name.startswith("0-") or runtime is None or runtime.island.rounds is None:
            continue
        for stage, rounds in runtime.island.rounds.states.stages.items():
            outer = torch.cat([member.state.parameters for member in rounds.members])
            loop.stages[stage].compute.flat.bind(outer)
    batches = held_out_batches(corpus(), JUDGED_ROWS, config.train.sequence_length)
    with torch.no_grad():
        modules = [loop.edge.module, *(middle.module for middle in loop.middle)]
        return evaluate(modules, islice(batches, JUDGED_BATCHES))


def rows_of(seed: int, steps: int, events: Sequence[str] = (ABSENT, *EVENTS)) -> list[Row]:
    """The control and every event of one seed, each beside the calm run of equal tokens."""
    calm: dict[int, Outcome] = {}

    def calm_of(count: int) -> Outcome:
        if count not in calm:
            calm[count] = outcome_of("", config_of(seed, count))
        return calm[count]

    rows, whole = [], calm_of(steps)
    for event in events:
        found = outcome_of(event, config_of(seed, steps))
        alike = calm_of(round(steps * found.tokens / whole.tokens))
        wait_seconds = max(found.longest_seconds, found.last_seconds) - whole.usual_seconds
        losses = found.loss, alike.loss, whole.loss
        rows.append(Row(seed, event, found.tokens, *losses, wait_seconds))
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def waits_of(seed: int, steps: int, events: Sequence[str] = ("", *EVENTS)) -> list[Wait]:
    """How long others wait where stragglers get what the overlap leaves, "" for a calm run."""
    config = config_of(seed, steps, SLACK_DELAY_STEPS, grace_seconds=0.0)
    calm, waits = outcome_of("", config), list[Wait]()
    for event in events:
        found = outcome_of(event, config) if event else calm
        seconds = found.longest_seconds - calm.usual_seconds
        waits.append(Wait(seed, event, seconds, found.last_seconds - calm.usual_seconds))
        print(waits[-1], file=sys.stderr, flush=True)
    return waits


def measured(steps: int, task: tuple[int, bool]) -> tuple[list[Row], list[Wait], float]:
    """The rows of one seed, or else its waits, and the processor seconds that they took."""
    torch.set_num_threads(1)
    (seed, is_rows), begin = task, time.process_time()
    rows = rows_of(seed, steps) if is_rows else []
    waits = waits_of(seed, steps * 3 // 4) if not is_rows else []
    return rows, waits, time.process_time() - begin


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| seed | one island of four is | tokens | loss | calm at equal tokens | difference "
        "| calm at equal steps | difference | longest wait of the others |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.seed} | {row.event} | {row.tokens} | {row.loss:.4f} | {row.calm_loss:.4f} "
        f"| {row.worse_percent:+.2f} % | {row.stepwise_calm_loss:.4f} "
        f"| {row.stepwise_percent:+.2f} % | {row.wait_seconds:.2f} s |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def waits_table(waits: Sequence[Wait]) -> str:
    lines = [
        "| seed | one island of four is | longest wait of the others before the last round | in it |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {wait.seed} | {wait.event or 'calm'} | {wait.seconds:.2f} s | {wait.last_seconds:.2f} s |"
        for wait in waits
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="What events cost islands that train together")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    tasks = [(seed, is_rows) for is_rows in (True, False) for seed in args.seeds]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(partial(measured, args.steps), tasks))
    text = f"""# Events at one island of four

`python -m benchmarks.island_events --seeds {" ".join(map(str, args.seeds))} --steps {args.steps}`: rounds of \
{INNER_STEPS} steps, results one step late, int4; grace window {GRACE_SECONDS:g} s. Losses in nats a token of held-out \
text, of the merged model; below zero is better than calm. "{ABSENT}" is the control: three islands to which nothing \
happens. What they gain at equal tokens they gain by more steps of the same tokens, with smaller batches, and so do \
those whom an event leaves. At equal steps they have seen fewer tokens than four.

{table([row for rows, _, _ in found for row in rows])}
The same in {args.steps * 3 // 4} steps with `outer.delay_steps={SLACK_DELAY_STEPS}` and `outer.grace_seconds=0`: \
stragglers get what the overlap leaves.

{waits_table([wait for _, waits, _ in found for wait in waits])}"""
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "island_events.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"{sum(seconds for *_, seconds in found):.0f} CPU s")


if __name__ == "__main__":
    main()
