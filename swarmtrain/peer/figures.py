"""What a peer tells Prometheus of itself (`swarmtrain peer --metrics HOST:PORT`)."""

import asyncio
from collections import Counter
from collections.abc import Iterable

import psutil

from swarmtrain.core.events import Event
from swarmtrain.core.version import VERSION
from swarmtrain.monitor.figures import Values
from swarmtrain.peer.rounds import OuterRounds
from swarmtrain.peer.session import Session


class PeerFigures:
    """Counts events as they come (`seen`) and reads the rest from `session` when asked (`read`)."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self._counts: Counter[str] = Counter()
        self._process = psutil.Process()

    def seen(self, event: Event) -> None:
        self._counts[event.kind] += 1

    def read(self) -> Values:
        yield "swarmtrain_build", 1, (VERSION,)
        for kind, count in sorted(self._counts.items()):
            yield "swarmtrain_events", count, (kind,)
        yield "swarmtrain_peer_resident_bytes", self._process.memory_info().rss, ()
        if self.session is not None:
            yield from _of_session(self.session)


def _of_session(session: Session) -> Values:
    load = session.world.lane.meter.load(asyncio.get_running_loop().time())
    totals, runtime = session.links.totals(), session.runtime
    for name, value in (
        ("serving", session.is_in_roster),
        ("step", runtime.member.step if runtime is not None else 0),
        ("sent_bytes", totals.bytes_sent),
        ("received_bytes", totals.bytes_received),
        ("calls", totals.calls),
        ("busy_ratio", load.busy_share),
        ("waiting_tasks", load.waiting_tasks),
        ("links", len(session.links.open_links)),
    ):
        yield f"swarmtrain_peer_{name}", float(value), ()
    if runtime is None:
        return
    for stage in runtime.member.stages:
        yield "swarmtrain_peer_stage", 1, (str(stage),)
    if runtime.island.rounds is not None:
        yield from _of_rounds(runtime.island.rounds, runtime.member.stages)


def _of_rounds(rounds: OuterRounds, stages: Iterable[int]) -> Values:
    """Bytes by stage: of those hosted now, and of those that were since this peer's rounds began."""
    for way, of, counted in (
        ("received", "payloads", rounds.payloads.received_bytes),
        ("received", "states", rounds.group_states.received_bytes),
        ("served", "payloads", rounds.payloads.served_bytes),
        ("served", "states", rounds.group_states.served_bytes),
    ):
        by_stage = Counter(dict.fromkeys(stages, 0))
        for (stage, _), some_bytes in counted.items():
            by_stage[stage] += some_bytes
        for stage, some_bytes in sorted(by_stage.items()):
            yield f"swarmtrain_peer_round_{way}_bytes", some_bytes, (str(stage), of)
