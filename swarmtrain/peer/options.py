"""What a peer is started with, and how its run ends."""

from dataclasses import dataclass

from swarmtrain.compute.lane import Lane
from swarmtrain.compute.place import HERE, Place
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.core.types import PeerId
from swarmtrain.swarm.directory import Directory
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.link import Transport
from swarmtrain.transport.requests import IslandStart


@dataclass(frozen=True, slots=True)
class World:
    """What differs between the internet, this machine and virtual time."""

    transport: Transport
    directory: Directory
    lane: Lane


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """A volunteer's choices. `stages` None means auto; `memory_bytes` is what the peer may use.

    `start` is the checkpoint that the run starts from, `starts` those of islands that have their own; `region` is where
    the machine stands, empty where nobody said; `island` is the swarm that it helps to hold a whole model, None to find
    one by measured links (peer.forming).
    """

    identity: Identity
    name: str
    stages: tuple[int, ...] | None
    listen: str
    announce: str
    memory_bytes: int
    kernel_class: str
    coordinator: str = ""
    start: CheckpointAt | None = None
    starts: tuple[IslandStart, ...] = ()
    region: str = ""
    island: int | None = 0
    place: Place = HERE

    @property
    def me(self) -> PeerId:
        return self.identity.peer_id

    def start_of(self, island: int) -> CheckpointAt | None:
        """Where `island` starts from; None: from the run's initial parameters."""
        return next((entry.at for entry in self.starts if entry.island == island), self.start)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a peer's run ended."""

    finished: bool
    reason: str
    step: int
