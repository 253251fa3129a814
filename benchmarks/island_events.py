"""What events cost islands that train together: one is killed in a round, is frozen, joins late, or is slow.

    python -m benchmarks.island_events [--seeds 1 2] [--steps 200] [--out benchmarks/results]

Four islands of two machines each run the peers' whole program in virtual time, on lines of 20 Mbit/s and 50 ms, and
train a small model on the default corpus with rounds of ten steps. Losses are real, on held-out text, of the outer
parameters that all islands have in common. A run that an event costs tokens is compared with a calm one that is
shorter, so that both end their learning rate's schedule with equal tokens, to the nearest step. Waits are those of
the islands that nothing happened to: what their longest step took beyond a calm run's usual one.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
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
EVENTS = ("killed", "frozen", "late", "slow")
JUDGED_ROWS, JUDGED_BATCHES = 16, 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to: the loss is that of the merged model, in nats a token."""

    steps: int
    tokens: int
    loss: float
    usual_seconds: float
    longest_seconds: float
    """Of a step of the islands that nothing happened to."""

    @property
    def wait_seconds(self) -> float:
        return self.longest_seconds - self.usual_seconds


@dataclass(frozen=True, slots=True)
class Row:
    """An event beside the calm run of as many tokens."""

    seed: int
    event: str
    tokens: int
    loss: float
    calm_loss: float
    wait_seconds: float

    @property
    def worse_percent(self) -> float:
        return 100 * (self.loss / self.calm_loss - 1)


def config_of(seed: int, steps: int) -> RunConfig:
    return load_config(
        (),
        [
            f"run.seed={seed}", f"run.steps={steps}", "model.stages=2", "model.width=64",
            "model.heads=4", "model.kv_heads=2", "model.ffn_width=160",
            "train.microbatches=2", "train.microbatch_size=4", "train.sequence_length=64",
            "train.accumulation=fast", "optimizer.learning_rate=4e-3",
            f"optimizer.warmup_steps={max(2, steps // 10)}",
            f"outer.inner_steps={INNER_STEPS}", f"outer.grace_seconds={GRACE_SECONDS}",
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
    others = [e.seconds for (island, step), e in steps.items() if island != HIT and step]
    return Outcome(
        steps=config.run.steps,
        tokens=sum(event.tokens for event in steps.values()),
        loss=merged_loss(scene, config),
        usual_seconds=statistics.median(others),
        longest_seconds=max(others),
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


def rows_of(seed: int, steps: int, events: Sequence[str] = EVENTS) -> list[Row]:
    """Every event of one seed, each beside the calm run of equal tokens."""
    calm: dict[int, Outcome] = {}

    def calm_of(count: int) -> Outcome:
        if count not in calm:
            calm[count] = outcome_of("", config_of(seed, count))
        return calm[count]

    rows, whole = [], calm_of(steps)
    for event in events:
        found = outcome_of(event, config_of(seed, steps))
        alike = calm_of(round(steps * found.tokens / whole.tokens))
        wait_seconds = found.longest_seconds - whole.usual_seconds
        rows.append(Row(seed, event, found.tokens, found.loss, alike.loss, wait_seconds))
    return rows


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| seed | one island of four is | tokens | loss | calm at equal tokens | difference "
        "| longest wait of the others |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.seed} | {row.event} | {row.tokens} | {row.loss:.4f} | {row.calm_loss:.4f} "
        f"| {row.worse_percent:+.2f} % | {row.wait_seconds:.2f} s |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="What events cost islands that train together")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.process_time()
    rows = [row for seed in args.seeds for row in rows_of(seed, args.steps)]
    text = f"""# Events at one island of four

`python -m benchmarks.island_events --seeds {" ".join(map(str, args.seeds))} --steps {args.steps}`: rounds of \
{INNER_STEPS} steps, results one step late, int4; grace window {GRACE_SECONDS:g} s. Losses in nats a token of held-out \
text, of the merged model; below zero is better than calm. Fewer
islands make more steps of the same tokens, with smaller batches, which is why most of these are better.

{table(rows)}"""
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "island_events.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"{time.process_time() - begin:.0f} CPU s")


if __name__ == "__main__":
    main()
