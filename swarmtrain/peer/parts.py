"""What the modules of one peer share: its machines, its stages, its links."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from swarmtrain.checkpoint.stage_file import StageState
from swarmtrain.compute.lane import Lane
from swarmtrain.compute.replica import Replica
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Record
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.core.types import Member, PeerId
from swarmtrain.peer.links import Links
from swarmtrain.peer.reduce import Reducer
from swarmtrain.peer.rosters import Rosters
from swarmtrain.peer.stage_rounds import OuterStates
from swarmtrain.peer.worker import Worker
from swarmtrain.recovery.snapshots import Snapshots
from swarmtrain.steps.member import StepMember
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.link import Link


@dataclass(slots=True)
class Parts:
    """What the island's driver works with; all of it belongs to this peer.

    `build(stage)` makes a replica with the run's initial parameters; `capacity_stages` is how many the machine's
    memory has room for, `spare_bytes()` what the hosted ones leave of it, less the `reserved_bytes`; `coordinator()`
    is the link to the coordinator, if there is one; `checkpoint` the newest one that the coordinator spoke of; `outer`
    what outer rounds keep, None in a run without them.
    """

    identity: Identity
    address: str
    config: RunConfig
    member: StepMember
    worker: Worker
    reducer: Reducer
    replicas: dict[int, Replica]
    snapshots: Snapshots
    lane: Lane
    links: Links
    rosters: Rosters
    record: Record
    build: "Callable[[int], asyncio.Future[Replica]]"
    capacity_stages: int
    spare_bytes: Callable[[], int]
    coordinator: Callable[[], Link | None]
    region: str = ""
    checkpoint: CheckpointAt | None = None
    outer: OuterStates | None = None
    island: int = 0
    reserved_bytes: int = 0

    @property
    def me(self) -> PeerId:
        return self.identity.peer_id

    def state_of(self, stage: int) -> StageState:
        """What this peer holds of a stage right now, in its own memory: it changes when the step does."""
        replica = self.replicas[stage]
        flat, current = replica.compute.flat, replica.current
        return StageState(
            stage=stage,
            names_shapes=tuple(zip(flat.names, flat.shapes, strict=True)),
            parameters=current.parameters.numpy(),
            moment1=current.moment1.numpy(),
            moment2=current.moment2.numpy(),
            rounds=self.outer.packed(stage) if self.outer is not None else None,
        )

    @property
    def may_learn(self) -> bool:
        """Whether siblings can teach all that a stage's state comes to. With rounds that is also the tokens it saw, and
        decisions do not tell who visited what where a planner says so."""
        return self.outer is None or self.config.paths.visits != "planned"

    @property
    def own(self) -> Member:
        """This peer as a roster would name it."""
        return Member(self.me, self.member.stages, self.address, self.region)
