"""What the modules of one peer share: its machines, its stages, its links."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from swarmtrain.compute.lane import Lane
from swarmtrain.compute.replica import Replica
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Record
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.core.types import Member, PeerId
from swarmtrain.peer.links import Links
from swarmtrain.peer.reduce import Reducer
from swarmtrain.peer.worker import Worker
from swarmtrain.recovery.snapshots import Snapshots
from swarmtrain.steps.member import StepMember
from swarmtrain.transport.link import Link


@dataclass(slots=True)
class Parts:
    """What the island's driver works with; all of it belongs to this peer.

    `build(stage)` makes a replica with the run's initial parameters; `capacity_stages` is how many the machine's
    memory has room for; `coordinator()` is the link to the coordinator, if there is one; `checkpoint` the newest one
    that the coordinator spoke of.
    """

    me: PeerId
    address: str
    config: RunConfig
    member: StepMember
    worker: Worker
    reducer: Reducer
    replicas: dict[int, Replica]
    snapshots: Snapshots
    lane: Lane
    links: Links
    record: Record
    build: "Callable[[int], asyncio.Future[Replica]]"
    capacity_stages: int
    coordinator: Callable[[], Link | None]
    region: str = ""
    checkpoint: CheckpointAt | None = None

    @property
    def own(self) -> Member:
        """This peer as a roster would name it."""
        return Member(self.me, self.member.stages, self.address, self.region)
