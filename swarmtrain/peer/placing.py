"""What a peer publishes of itself, what it reads of others, and which stages follow from that.

The decision is `plan.assign`, a pure function of the records, so peers that see the same directory choose alike.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from swarmtrain.compute.meter import Meter
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import DirectoryError
from swarmtrain.core.events import LinksMeasured, Measured, Noted, Record, Waiting
from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.core.version import VERSION
from swarmtrain.peer.published import lines_of
from swarmtrain.plan.assign import Assignment, Candidate, assign, choose_stages
from swarmtrain.swarm.directory import Directory
from swarmtrain.swarm.records import LinkRow, PeerRecord, State

FIRST_ROSTER_VERSION = 1

MOST_SILENT_LOOKS = 3
"""A newcomer that found the directory silent so often in a row ends with its error."""

NOTABLE = 1.5
"""A link's figures are told again when one of them changed by this factor."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine can do, as its self-test found it, and what its lane does."""

    measured: Measured
    capacity_stages: int
    meter: Meter
    links: Callable[[], tuple[LinkRow, ...]] = lambda: ()


@dataclass(slots=True)
class Placing:
    """One peer's view of the directory. `pinned` are the stages its owner chose, None for auto; `region` is where the
    owner says it stands. `records` are those of its own island, `elsewhere` those of others."""

    config: RunConfig
    me: PeerId
    name: str
    pinned: tuple[int, ...] | None
    directory: Directory
    record: Record
    region: str = ""
    island: int = 0
    elsewhere: tuple[PeerRecord, ...] = ()
    records: tuple[PeerRecord, ...] = ()
    assignment: Assignment = field(default_factory=lambda: Assignment((), ""))
    is_steady: bool = False
    _published: tuple[PeerRecord | None, float] = (None, 0.0)
    _avoided: dict[PeerId, int] = field(default_factory=dict)
    _obstacle: str = ""
    _silent_looks: int = 0
    _told_links: tuple[LinkRow, ...] = ()

    async def look(self, machine: Machine, address: str, state: State, is_in: bool) -> None:
        """Publish what changed, read who is there, and choose; what is known serves while the directory is silent.

        A machine that slept, or had no network for a while, finds all its calls timed out when it wakes. Raises
        DirectoryError when a peer that is not in yet has found it silent several times in a row.
        """
        try:
            await self._look(machine, address, state)
            self._silent_looks = 0
        except DirectoryError as error:
            self._silent_looks += 1
            if not is_in and self._silent_looks >= MOST_SILENT_LOOKS:
                raise
            self.record(Noted("the directory does not answer", f"{error.what} ({error.why})"))

    async def _look(self, machine: Machine, address: str, state: State) -> None:
        life_seconds = self.config.swarm.announce_seconds
        own, now = self.own_record(machine, address, state), self.directory.now()
        before, at = self._published
        if without_load(own) != before or now > at + life_seconds / 3:
            await self.directory.publish(own, life_seconds)
            self._published = (without_load(own), now)
        if _differ(self._told_links, own.links):
            self._told_links = own.links
            self.record(LinksMeasured(self.me, own.links))
        everybody = await self.directory.records()
        previous, self.records = (
            self.records,
            tuple(r for r in everybody if r.island == self.island and r.state != "forming"),
        )
        self.elsewhere = tuple(r for r in everybody if r.island != self.island)
        self.is_steady = _plain(previous) == _plain(self.records)
        if state == "joining":
            self.assignment = self._assign().get(self.me, self.assignment)

    def avoid(self, peer: PeerId) -> None:
        """Leave a peer out of reach out of all choices until it publishes again."""
        self._avoided[peer] = next((r.sequence for r in self.records if r.peer == peer), 0)

    def first_roster(self) -> Roster | None:
        """The roster to start the run with, if this peer is its lowest edge and nothing is missing."""
        obstacle = self.obstacle()
        if obstacle and obstacle != self._obstacle:
            self.record(Waiting(obstacle))
        self._obstacle = obstacle
        if obstacle or not self.is_steady:
            return None
        assignments = self._assign()
        members = [
            Member(entry.peer, assignments[entry.peer].stages, entry.address, entry.region)
            for entry in self._reachable()
            if assignments[entry.peer].stages
        ]
        roster = Roster.of(FIRST_ROSTER_VERSION, members)
        return roster if roster.edges and roster.edges[0] == self.me else None

    @property
    def serving(self) -> tuple[PeerRecord, ...]:
        """The other peers of a run that has started."""
        return tuple(
            entry for entry in self.records if entry.state == "serving" and entry.peer != self.me
        )

    def place_beside_serving(self) -> Assignment:
        """The stages to take in a running run: those that serve or will stay where they are, and links count."""
        own = next((entry for entry in self.records if entry.peer == self.me), None)
        if own is None or any(entry.peer == self.me for entry in self.serving):
            return Assignment((), "this peer's own record is not in the directory yet")
        learning = [entry for entry in self.records if entry.state == "learning"]
        others = [candidate_of(entry, entry.stages) for entry in (*self.serving, *learning)]
        mine = candidate_of(own, self.pinned)
        lines = lines_of(self.config, self.records)
        self.assignment = choose_stages(mine, others, self.config.model.stages, lines)
        return self.assignment

    @property
    def can_begin(self) -> bool:
        """Whether the island trains, or could as far as the directory shows."""
        return bool(self.serving) or not self.obstacle()

    def obstacle(self) -> str:
        """Why the run cannot start with what the directory shows; empty when it can."""
        if self.serving:
            return "the run has started; asking to join it"
        placed = [entry.stages for entry in self._assign().values() if entry.stages]
        missing_peers = self.config.swarm.min_peers - len(placed)
        if missing_peers > 0:
            return f"{missing_peers} more peers with room for a stage must join: {len(placed)} are here"
        hosted = {stage for stages in placed for stage in stages}
        missing = [s for s in range(self.config.model.stages + 1) if s not in hosted]
        if missing:
            stages = ", ".join(map(str, missing))
            return f"no peer has room for stages {stages}; more or larger peers must join"
        return ""

    def _reachable(self) -> list[PeerRecord]:
        return [r for r in self.records if self._avoided.get(r.peer, -1) < r.sequence]

    def _assign(self) -> dict[PeerId, Assignment]:
        """For the first roster, on which all must agree: by regions, and not by links, whose figures tremble."""
        candidates = [
            candidate_of(entry, entry.stages if entry.pinned else None)
            for entry in self._reachable()
        ]
        return assign(candidates, self.config.model.stages)

    def own_record(self, machine: Machine, address: str, state: State) -> PeerRecord:
        """What this peer says of itself now."""
        measured = machine.measured
        load = machine.meter.load(asyncio.get_running_loop().time())
        return PeerRecord(
            run=self.config.hash,
            peer=self.me,
            name=self.name,
            address=address,
            stages=self.assignment.stages or self.pinned or (),
            state=state,
            pinned=self.pinned is not None,
            capacity_stages=machine.capacity_stages,
            seconds_per_stage=measured.forward_seconds + measured.backward_seconds,
            edge_capable=True,
            version=VERSION,
            sequence=0,
            expires=0.0,
            busy_share=load.busy_share,
            waiting_tasks=load.waiting_tasks,
            pass_seconds=load.pass_seconds or 0.0,
            task_seconds=(load.forward_seconds, load.backward_seconds, load.loss_seconds),
            links=machine.links(),
            region=self.region,
            island=self.island,
        )


def _differ(before: tuple[LinkRow, ...], after: tuple[LinkRow, ...]) -> bool:
    """Whether a link is new, or a figure of one moved by more than `NOTABLE`."""
    known = {to: (seconds, rate) for to, seconds, rate, _ in before}
    return any(
        to not in known or not _is_near(known[to][0], seconds) or not _is_near(known[to][1], rate)
        for to, seconds, rate, _ in after
    )


def _is_near(before: float, after: float) -> bool:
    return max(before, after) <= NOTABLE * min(before, after)


def candidate_of(entry: PeerRecord, pinned: tuple[int, ...] | None) -> Candidate:
    """A record in the terms of placement; `pinned` are the stages that it keeps."""
    return Candidate(
        entry.peer,
        pinned,
        entry.capacity_stages,
        entry.seconds_per_stage,
        entry.edge_capable,
        entry.region,
    )


def _plain(records: tuple[PeerRecord, ...]) -> list[tuple[object, ...]]:
    """Of the records what stays while the peers and their figures stay the same."""
    return [
        (
            r.peer,
            r.name,
            r.address,
            r.pinned,
            r.capacity_stages,
            r.seconds_per_stage,
            r.edge_capable,
            r.region,
        )
        for r in records
    ]


def without_load(entry: PeerRecord) -> PeerRecord:
    """The record less what work on the peer changes all the time."""
    idle = replace(entry, busy_share=0.0, waiting_tasks=0.0, pass_seconds=0.0)
    return replace(idle, task_seconds=(0.0, 0.0, 0.0), links=())
