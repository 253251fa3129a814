"""What a peer publishes of itself, what it reads of others, and which stages follow from that.

The decision is `plan.assign`, a pure function of the records, so peers that see the same directory choose alike.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from swarmtrain.compute.meter import Meter
from swarmtrain.core.config import RunConfig
from swarmtrain.core.errors import DirectoryError
from swarmtrain.core.events import LinksMeasured, Measured, Noted, Record, Waiting
from swarmtrain.core.remembered import remembered
from swarmtrain.core.types import MOST_MEMBERS, Member, PeerId, Roster
from swarmtrain.core.version import VERSION
from swarmtrain.peer.published import lines_of
from swarmtrain.plan.assign import Assignment, Candidate, assign, choose_stages
from swarmtrain.steps.membership import FULL
from swarmtrain.swarm.directory import Directory
from swarmtrain.swarm.records import LinkRow, PeerRecord, State

FIRST_ROSTER_VERSION = 1

MOST_SILENT_LOOKS = 3
"""A newcomer that found the directory silent so often in a row ends with its error."""

RECORD_BYTES = 1024
JOINING_BYTES_PER_SECOND, SERVING_BYTES_PER_SECOND = 1 << 20, 64 << 10
"""A look brings all records, of about so many bytes each; looks are so far apart that they carry no more than this a
second, who waits for the run to begin looks more often. Without that bound ten thousand newcomers, each looking every
quarter of a second, would read 40 MB/s each."""

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
    owner says it stands. `records` are those of its own island, `elsewhere` those of others. `is_full`: its island said
    that it has no place left; `given_up` is why it cannot go on, where it began."""

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
    is_full: bool = False
    given_up: str = ""
    assignment: Assignment = field(default_factory=lambda: Assignment((), ""))
    _before: tuple[PeerRecord, ...] | None = None
    _may_read_seconds: float = 0.0
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
        if self.directory.now() < self._may_read_seconds:
            return
        everybody = await self.directory.records()
        rate = SERVING_BYTES_PER_SECOND if state == "serving" else JOINING_BYTES_PER_SECOND
        self._may_read_seconds = self.directory.now() + len(everybody) * RECORD_BYTES / rate
        self._before = self.records
        self.records, self.elsewhere = _by_island(everybody, self.island)
        if state == "joining":
            self.assignment = self._picture.assignments.get(self.me, self.assignment)

    @property
    def rest_seconds(self) -> float:
        """How long from now on a look would bring nothing new."""
        return max(0.0, self._may_read_seconds - self.directory.now())

    @property
    def is_steady(self) -> bool:
        """Whether the last two looks showed the same peers, and the same of them but for what changes all the time."""
        return self._before is not None and _are_alike(self._before, self.records)

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
        roster = self._picture.first_roster
        return roster if roster.edges[:1] == (self.me,) else None

    @property
    def expected_roster(self) -> Roster | None:
        """The first roster as this peer would choose it: who stands with it saw the same directory."""
        return None if self.obstacle() else self._picture.first_roster

    @property
    def serving(self) -> tuple[PeerRecord, ...]:
        """The other peers of a run that has started."""
        return tuple(entry for entry in _serving(self.records) if entry.peer != self.me)

    @property
    def has_begun(self) -> bool:
        """Whether others serve already."""
        return any(entry.peer != self.me for entry in _serving(self.records))

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
    def others_train(self) -> bool:
        """Whether another island trains, as far as the directory shows."""
        return any(entry.state == "serving" for entry in self.elsewhere)

    @property
    def can_begin(self) -> bool:
        """Whether the island trains, or could as far as the directory shows."""
        return self.has_begun or not self.obstacle()

    def obstacle(self) -> str:
        """Why the run cannot start with what the directory shows; empty when it can."""
        if self.is_full or self.given_up:
            return self.given_up or FULL
        if self.has_begun:
            return "the run has started; asking to join it"
        picture = self._picture
        missing_peers = self.config.swarm.min_peers - picture.placed
        if missing_peers > 0:
            return f"{missing_peers} more peers with room for a stage must join: {picture.placed} are here"
        if picture.placed > MOST_MEMBERS:
            return (
                f"{picture.placed} peers are more than one island can have ({MOST_MEMBERS}): "
                "let them form several islands"
            )
        if picture.missing:
            stages = ", ".join(map(str, picture.missing))
            return f"no peer has room for stages {stages}; more or larger peers must join"
        return ""

    @property
    def _picture(self) -> "_Picture":
        """Of those that can be reached."""
        records = self.records
        if self._avoided:
            records = tuple(r for r in records if self._avoided.get(r.peer, -1) < r.sequence)
        return _picture(records, self.config.model.stages)

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


@dataclass(frozen=True)
class _Picture:
    """What the records say of the first roster: who takes which stages, how many have one, which stages nobody has."""

    reachable: tuple[PeerRecord, ...]
    assignments: Mapping[PeerId, Assignment]
    placed: int
    missing: tuple[int, ...]

    @cached_property
    def first_roster(self) -> Roster:
        members = [
            Member(entry.peer, self.assignments[entry.peer].stages, entry.address, entry.region)
            for entry in self.reachable
            if self.assignments[entry.peer].stages
        ]
        return Roster.of(FIRST_ROSTER_VERSION, members)


@remembered(8)
def _picture(reachable: tuple[PeerRecord, ...], stages: int) -> _Picture:
    """For the first roster, on which all must agree: by regions, and not by links, whose figures tremble."""
    candidates = [
        candidate_of(entry, entry.stages if entry.pinned else None) for entry in reachable
    ]
    assignments = assign(candidates, stages)
    placed = [entry.stages for entry in assignments.values() if entry.stages]
    hosted = {stage for its in placed for stage in its}
    missing = tuple(stage for stage in range(stages + 1) if stage not in hosted)
    return _Picture(reachable, assignments, len(placed), missing)


@remembered(8)
def _by_island(
    everybody: tuple[PeerRecord, ...], island: int
) -> tuple[tuple[PeerRecord, ...], tuple[PeerRecord, ...]]:
    """Those of `island` that are in it, and those of other islands or of none yet."""
    mine = tuple(r for r in everybody if r.island == island and r.state != "forming")
    if len(mine) == len(everybody):
        return everybody, ()
    return mine, tuple(r for r in everybody if r.island != island)


@remembered(8)
def _serving(records: tuple[PeerRecord, ...]) -> tuple[PeerRecord, ...]:
    return tuple(entry for entry in records if entry.state == "serving")


@remembered(8)
def _are_alike(before: tuple[PeerRecord, ...], now: tuple[PeerRecord, ...]) -> bool:
    return _plain(before) == _plain(now)


@remembered(8)
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
