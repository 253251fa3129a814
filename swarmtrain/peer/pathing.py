"""The conductor's planner at work: from what peers published to the routes of the next step (design.md section 7).

While a step runs the next one is planned, so that no step waits for its plan. A step whose plan is not ready, or was
made for another roster, is opened without: then callers choose for themselves (plan.wiring).
"""

import asyncio
import functools
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.events import Noted, PathsPlanned, Record
from swarmtrain.core.messages import Ownership, pack_items, pack_paths, pack_remaining
from swarmtrain.core.sections import CODEC_BYTES_PER_VALUE
from swarmtrain.core.sequences import Sequences, sequence_of, stage_sequences
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import EDGE_STAGE, PeerId, Roster
from swarmtrain.plan.costs import LinkFigure, PeerFigures, costs_of
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Instance, PeerCosts
from swarmtrain.plan.paths.routes import Plan
from swarmtrain.plan.paths.stepwise import plan_step
from swarmtrain.steps.plan import Paths
from swarmtrain.swarm.records import PeerRecord

MODELLED_EVALUATIONS = 300
"""In virtual time, where seconds of planning would not be the same on every machine."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A step's paths, and the members they were made for."""

    step: int
    places: tuple[tuple[PeerId, tuple[int, ...]], ...]
    paths: Paths


class Pathing:
    """Plans while this peer conducts. With `is_modelled` a plan is made at once, and its time costs nothing."""

    def __init__(
        self,
        config: RunConfig,
        is_modelled: bool,
        record: Record,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._config, self._is_modelled, self._record = config, is_modelled, record
        self._records: Sequence[PeerRecord] = ()
        self._prepared: _Prepared | None = None
        self._working: asyncio.Task[None] | None = None
        self._tasks = Tasks(failed)

    async def close(self) -> None:
        """A plan under way ends by itself within its budget; nobody hears of it."""
        await self._tasks.cancel_all()

    def look(self, records: Sequence[PeerRecord]) -> None:
        """What peers published, as the directory shows it now."""
        self._records = records

    def paths(self, step: int, roster: Roster) -> Paths | None:
        """The routes of `step` if they are ready for this roster; those of the next step are prepared from here on."""
        if not self._config.planner.use:
            return None
        prepared = self._prepared
        self._prepare(step + 1, roster)
        if prepared is None or (prepared.step, prepared.places) != (step, _places(roster)):
            return None
        return prepared.paths

    def _prepare(self, step: int, roster: Roster) -> None:
        known = [entry for entry in self._records if entry.peer in roster]
        if step >= self._config.run.steps or not known:
            return
        instance = instance_of(self._config, roster, known)
        sequences = None if self._config.paths.visits == "planned" else self._sequences(step)
        chance = random.Random(f"paths {self._config.run.seed} {step}")
        work = functools.partial(plan_step, instance, sequences, chance=chance)
        if self._is_modelled:
            try:
                self._take(step, roster, work(lambda count: count / MODELLED_EVALUATIONS), 0.0)
            except ConfigError as error:
                self._go_without(str(error))
        elif self._working is None or self._working.done():
            self._working = self._tasks.spawn(self._plan_beside(step, roster, work), "plan")

    async def _plan_beside(self, step: int, roster: Roster, work: Callable[..., Plan]) -> None:
        loop = asyncio.get_running_loop()
        begin, budget_seconds = loop.time(), self._config.planner.seconds
        try:
            plan = await asyncio.to_thread(work, lambda _: (loop.time() - begin) / budget_seconds)
        except ConfigError as error:
            self._go_without(str(error))
            return
        self._take(step, roster, plan, loop.time() - begin)

    def _go_without(self, why: str) -> None:
        """A step without a plan is wired; the run does not end for it."""
        self._record(Noted("a step could not be planned", why))

    def _take(self, step: int, roster: Roster, plan: Plan, seconds: float) -> None:
        if not math.isfinite(plan.makespan_seconds):
            self._go_without("its microbatches lock each other up")
            return
        self._prepared = _Prepared(step, _places(roster), paths_of(plan, roster))
        self._record(
            PathsPlanned(
                step, plan.makespan_seconds, plan.lower_bound_seconds, plan.evaluations, seconds
            )
        )

    def _sequences(self, step: int) -> Sequences:
        sequences = stage_sequences(self._config, step)
        return tuple(sequence_of(sequences, k) for k in range(self._config.train.microbatches))


def _places(roster: Roster) -> tuple[tuple[PeerId, tuple[int, ...]], ...]:
    return tuple((member.peer, member.stages) for member in roster.members)


def instance_of(config: RunConfig, roster: Roster, records: Sequence[PeerRecord]) -> Instance:
    """The planner's view of a step with `roster`; `records` are those of its members, at least one.

    Who published nothing counts as slow as the slowest that did.
    """
    published = {entry.peer: _figures(entry, roster) for entry in records}
    slowest = max(published.values(), key=lambda figures: figures.pass_seconds)
    train, limits = config.train, config.limits
    peers = []
    for member in roster.members:
        figures = published.get(member.peer, slowest)
        slots = limits.slots_shared + len(member.stages) + (EDGE_STAGE in member.stages)
        peers.append(
            PeerCosts(
                name=member.peer,
                stages=member.stages,
                forward_seconds=figures.forward_seconds,
                backward_seconds=figures.backward_seconds,
                loss_seconds=figures.loss_seconds if EDGE_STAGE in member.stages else 0.0,
                memory_slots=slots,
            )
        )
    values = train.tokens_per_microbatch * config.model.width
    sent_bytes = int(values * CODEC_BYTES_PER_VALUE[config.wire.codec])
    rows = costs_of(published.values()).matrix(roster.peers, sent_bytes)
    stages = config.model.stages + 1
    return Instance(
        peers=tuple(peers),
        send_seconds=tuple(map(tuple, rows)),
        stages=stages,
        microbatches=train.microbatches,
        visits=config.paths.visited(config.model.stages) + 1,
        max_swaps=config.paths.swaps,
        max_jump=stages,
        quotas="free",
        protected_stages=config.paths.protected,
    )


def _figures(entry: PeerRecord, roster: Roster) -> PeerFigures:
    forward_seconds, backward_seconds, loss_seconds = entry.task_seconds
    links = []
    for digits, one_way_seconds, rate, calls in entry.links:
        to = next((peer for peer in roster.peers if peer.startswith(digits)), None)
        if to is not None:
            links.append(LinkFigure(to, one_way_seconds, rate, calls))
    return PeerFigures(
        entry.peer,
        entry.seconds_per_stage,
        forward_seconds,
        backward_seconds,
        loss_seconds,
        tuple(links),
    )


def paths_of(plan: Plan, roster: Roster) -> Paths:
    """A plan as OPEN carries it. Keys that visit the same stages are numbered as they are released."""
    names, routes = roster.peers, list(plan.routes)
    if len({route.stages for route in routes}) == 1:
        routes.sort(key=lambda route: route.release_seconds)
    executor = Executor(plan.instance)
    led: dict[PeerId, list[int]] = {edge: [] for edge in roster.edges}
    remaining: list[float] = []
    for key, route in enumerate(routes):
        led[names[route.peers[0]]].append(key)
        remaining += [-task[0] for task in executor.chain(route.peers)]
    path_peers, packed = pack_paths(tuple(tuple(names[p] for p in r.peers[1:]) for r in routes))
    sequences = tuple(route.stages[1:] for route in routes)
    return Paths(
        leads=tuple(
            Ownership(edge, pack_items((0, key) for key in keys)) for edge, keys in led.items()
        ),
        sequences=sequences if len(Counter(sequences)) > 1 else sequences[:1],
        path_peers=path_peers,
        paths=packed,
        remaining=pack_remaining(remaining),
    )
