"""Everything a peer has once it knows its stages: replicas, worker, reducer, and the island's driver."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from swarmtrain.compute.lane import Kind, Lane, Task
from swarmtrain.compute.place import HERE, Place
from swarmtrain.compute.replica import Replica
from swarmtrain.compute.stage import build_compute
from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import Record
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.core.sizes import memory_estimate
from swarmtrain.peer.hops import Hops
from swarmtrain.peer.island import Island
from swarmtrain.peer.links import Links
from swarmtrain.peer.parts import Parts
from swarmtrain.peer.position import Positions, Samples
from swarmtrain.peer.probing import Probing
from swarmtrain.peer.reduce import Reducer
from swarmtrain.peer.restore import load_checkpoint
from swarmtrain.peer.rosters import Rosters
from swarmtrain.peer.stage_rounds import OuterStates
from swarmtrain.peer.teaching import Teaching
from swarmtrain.peer.worker import Worker
from swarmtrain.recovery.snapshots import Snapshots
from swarmtrain.steps.keys import first_base
from swarmtrain.steps.member import StepMember
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.link import Link


@dataclass(frozen=True, slots=True)
class Setting:
    """What a peer brings to its stages; the worlds differ in `lane` and in what is behind `links`.

    `memory_bytes` is what the peer may use.
    `start` is the checkpoint of the coordinator that a resumed run starts from.
    """

    identity: Identity
    address: str
    config: RunConfig
    vocab_size: int
    lane: Lane
    links: Links
    rosters: Rosters
    samples: Samples
    record: Record
    memory_bytes: int
    capacity_stages: int
    coordinator: Callable[[], Link | None]
    start: CheckpointAt | None
    region: str
    island: int = 0
    place: Place = HERE


@dataclass(slots=True)
class Runtime:
    """A peer at work."""

    member: StepMember
    replicas: dict[int, Replica]
    snapshots: Snapshots
    worker: Worker
    reducer: Reducer
    island: Island
    probing: Probing

    @property
    def teaching(self) -> Teaching:
        return self.island.recovering.teaching

    async def close(self) -> None:
        await self.probing.close()
        await self.island.close()
        await self.worker.close()


async def build_runtime(
    setting: Setting,
    stages: tuple[int, ...],
    ended: Callable[[bool, str], None],
    failed: Callable[[BaseException], None],
) -> Runtime:
    """Build the stages on the lane with the parameters the run starts from, and wire the parts together.

    Raises StateError when the run starts from a checkpoint that cannot be fetched.
    """
    config, lane, me = setting.config, setting.lane, setting.identity.peer_id

    def build(stage: int) -> "asyncio.Future[Replica]":
        task = Task(Kind.STATE, stage, name="build")
        return lane.submit(task, lambda: _build(setting, stage))

    def spare_bytes() -> int:
        needed = memory_estimate(config, setting.vocab_size, member.stages).total_bytes
        return setting.memory_bytes - needed - parts.reserved_bytes

    start = setting.start or CheckpointAt(0, first_base(bytes.fromhex(config.hash)))
    member = StepMember(me, stages, start.step, start.base)
    replicas = {stage: await build(stage) for stage in stages}
    outer = OuterStates(config, setting.island) if config.outer.inner_steps else None
    if outer is not None:
        for replica in replicas.values():
            outer.begin(replica)
    positions = Positions(
        member=member,
        replicas=replicas,
        lane=lane,
        samples=setting.samples,
        microbatches=config.train.microbatches,
        perform=lambda effects: island.perform(effects),
        failed=failed,
    )
    worker = Worker(config, positions, setting.record)
    worker.hops = Hops(me, config, worker, setting.links, setting.record)
    silence_seconds = config.links.silence_seconds
    reducer = Reducer(me, member, replicas, lane, setting.links, silence_seconds)
    reducer.record = setting.record
    parts = Parts(
        identity=setting.identity,
        address=setting.address,
        config=config,
        member=member,
        worker=worker,
        reducer=reducer,
        replicas=replicas,
        snapshots=Snapshots(),
        lane=lane,
        links=setting.links,
        rosters=setting.rosters,
        record=setting.record,
        build=build,
        capacity_stages=setting.capacity_stages,
        spare_bytes=spare_bytes,
        coordinator=setting.coordinator,
        region=setting.region,
        checkpoint=setting.start,
        outer=outer,
        island=setting.island,
    )
    if setting.start is not None:
        await load_checkpoint(parts, setting.start)
    island = Island(parts, ended, failed)
    chance = random.Random(f"probing {config.run.seed} {me}")
    probing = Probing(parts, chance, failed)
    return Runtime(member, replicas, parts.snapshots, worker, reducer, island, probing)


def _build(setting: Setting, stage: int) -> Replica:
    compute = build_compute(setting.config, setting.vocab_size, stage, setting.place)
    return Replica(setting.config, stage, compute)
