"""The conductor's planner at work: from what peers published to the routes of the next step (design.md section 7).

While a step runs the next one is planned, so that no step waits for its plan. A step whose plan is not ready is opened
without: then callers choose for themselves (plan.wiring). Such a plan is given up at once, so that the step after gets
one. Whoever is lost or joins after a step was planned changes that plan at once: before the step opens
(plan.paths.replanning), or while it runs (plan.paths.repair).
"""

import asyncio
import functools
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.events import Noted, PathsPlanned, PathsRepaired, Record
from swarmtrain.core.messages import (
    Open,
    Ownership,
    pack_items,
    pack_paths,
    pack_remaining,
    unpack_items,
)
from swarmtrain.core.sequences import Sequences, sequence_of, stage_sequences
from swarmtrain.core.tasks import Tasks
from swarmtrain.core.types import EDGE_STAGE, PeerId, Roster
from swarmtrain.peer.published import boundary_bytes, by_digits, figures_of
from swarmtrain.plan.costs import costs_of
from swarmtrain.plan.paths.execution import Executor
from swarmtrain.plan.paths.instance import Chance, Instance, PeerCosts
from swarmtrain.plan.paths.repair import repair
from swarmtrain.plan.paths.replanning import replan
from swarmtrain.plan.paths.routes import Plan, changed_visits
from swarmtrain.plan.paths.search import Spent
from swarmtrain.plan.paths.stepwise import plan_step
from swarmtrain.steps.plan import Paths
from swarmtrain.swarm.records import PeerRecord

MODELLED_EVALUATIONS = 300
"""In virtual time, where seconds of planning would not be the same on every machine."""


STEP_SHARE = 0.5
"""Share of the last step's seconds that a plan may take at most: the next step may be faster, and the first routes and
the bound come on top."""

REPAIR_EVALUATIONS, REPAIR_SECONDS = 300, 0.05
"""What a changed roster may cost: the step waits for it."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A step's plan, its routes by key, and the members it was made for."""

    step: int
    places: tuple[tuple[PeerId, tuple[int, ...]], ...]
    plan: Plan


class Pathing:
    """Plans while this peer conducts. With `is_modelled` a plan is made at once, and its time costs nothing."""

    def __init__(
        self,
        me: PeerId,
        config: RunConfig,
        is_modelled: bool,
        record: Record,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._me, self._config = me, config
        self._is_modelled, self._record = is_modelled, record
        self._records: Sequence[PeerRecord] = ()
        self._prepared: _Prepared | None = None
        self._running: _Prepared | None = None
        self._working: asyncio.Task[None] | None = None
        self._opened_step, self._opened_seconds = -1, -math.inf
        self._step_seconds = math.inf  # what the last step took; not known before the second
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
        prepared, self._running = self._prepared, None
        self._measure(step)
        self._prepare(step + 1, roster)
        if prepared is None or prepared.step != step:
            return None
        if prepared.places != _places(roster):
            prepared = self._changed(prepared, roster, replan)
        self._running = prepared
        return None if prepared is None else paths_of(prepared.plan, roster)

    def repaired(self, before: Open, roster: Roster, leads: tuple[Ownership, ...]) -> Paths | None:
        """The routes of the step that runs, without the peers that `roster` lacks, and with newcomers where they are
        worth it; None where they are not known."""
        running = self._running
        if running is None or running.step != before.step:
            return None
        led = {key: share.peer for share in leads for _, key in unpack_items(share.items)}
        places = [roster.peers.index(led[key]) for key in sorted(led)]
        elapsed_seconds = asyncio.get_running_loop().time() - self._opened_seconds

        def work(instance: Instance, previous: Plan, spent: Spent, chance: Chance) -> Plan:
            return repair(instance, previous, places, elapsed_seconds, spent, chance)

        self._running = self._changed(running, roster, work)
        return None if self._running is None else paths_of(self._running.plan, roster)

    def _changed(
        self, before: _Prepared, roster: Roster, work: Callable[..., Plan]
    ) -> _Prepared | None:
        """The plan for another roster, made at once: only what has to change, or newcomers make shorter, does."""
        known = [entry for entry in self._records if entry.peer in roster]
        if not known:
            return None
        chance = random.Random(f"changed paths {self._config.run.seed} {before.step}")
        loop = asyncio.get_running_loop()
        begin = loop.time()

        def spent(evaluations: int) -> float:
            if self._is_modelled:
                return evaluations / REPAIR_EVALUATIONS
            return (loop.time() - begin) / REPAIR_SECONDS

        try:
            plan = work(
                instance_of(self._config, roster, known, self._me),
                before.plan,
                spent=spent,
                chance=chance,
            )
        except ConfigError as error:
            self._go_without(str(error))
            return None
        if not math.isfinite(plan.makespan_seconds):
            self._go_without("its microbatches lock each other up")
            return None
        seconds = 0.0 if self._is_modelled else loop.time() - begin
        visits = changed_visits(before.plan, plan)
        self._record(
            PathsRepaired(before.step, visits, plan.makespan_seconds, plan.evaluations, seconds)
        )
        return _Prepared(before.step, _places(roster), plan)

    def _measure(self, step: int) -> None:
        """A step opens, so the one before took until now."""
        now = asyncio.get_running_loop().time()
        if step == self._opened_step + 1:
            self._step_seconds = now - self._opened_seconds
        self._opened_step, self._opened_seconds = step, now

    def _prepare(self, step: int, roster: Roster) -> None:
        known = [entry for entry in self._records if entry.peer in roster]
        if step >= self._config.run.steps or not known:
            return
        instance = instance_of(self._config, roster, known, self._me)
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
        begin = loop.time()
        budget_seconds = min(self._config.planner.seconds, STEP_SHARE * self._step_seconds)

        def spent(_: int) -> float:
            used_seconds = loop.time() - begin
            if self._opened_step >= step or used_seconds >= budget_seconds:
                return 1.0
            return used_seconds / budget_seconds

        try:
            plan = await asyncio.to_thread(work, spent)
        except ConfigError as error:
            self._go_without(str(error))
            return
        seconds = loop.time() - begin
        if self._opened_step >= step:
            self._go_without(f"step {step} opened before its plan was ready, after {seconds:.3g} s")
            return
        self._take(step, roster, plan, seconds)

    def _go_without(self, why: str) -> None:
        """A step without a plan is wired; the run does not end for it."""
        self._record(Noted("a step could not be planned", why))

    def _take(self, step: int, roster: Roster, plan: Plan, seconds: float) -> None:
        if not math.isfinite(plan.makespan_seconds):
            self._go_without("its microbatches lock each other up")
            return
        self._prepared = _Prepared(step, _places(roster), by_key(plan))
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


def instance_of(
    config: RunConfig, roster: Roster, records: Sequence[PeerRecord], conductor: PeerId
) -> Instance:
    """The planner's view of a step that `conductor` opens with `roster`; `records` are those of its members, at least
    one.

    Who published nothing counts as slow as the slowest that did.
    """
    peers_by_digits = by_digits(roster.peers)
    published = {entry.peer: figures_of(entry, peers_by_digits) for entry in records}
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
    costs = costs_of(published.values())
    rows = costs.matrix(roster.peers, boundary_bytes(config))
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
        may_wait=False,
        opening_seconds=tuple(costs.send_seconds(conductor, peer, 0) for peer in roster.peers),
    )


def by_key(plan: Plan) -> Plan:
    """`plan` with its routes in the order of the step's keys: those that visit the same stages as they are released."""
    if len({route.stages for route in plan.routes}) > 1:
        return plan
    return replace(plan, routes=tuple(sorted(plan.routes, key=lambda r: r.release_seconds)))


def paths_of(plan: Plan, roster: Roster) -> Paths:
    """A plan as OPEN carries it, its routes by key."""
    names, routes = roster.peers, plan.routes
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
