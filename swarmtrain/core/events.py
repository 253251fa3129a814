"""Every fact worth recording (I7): what happened, to whom, and why. Layers hand them to a `Record`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; `kind` is the class name in snake case."""

    @classmethod
    def kind_of(cls) -> str:
        return _snake_case(cls.__name__)

    @property
    def kind(self) -> str:
        return self.kind_of()

    def to_json(self) -> dict[str, Any]:
        """The event's values, `kind` first, as `monitor.lines` writes them: bytes become hex there."""
        return {
            "kind": self.kind,
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
        }


@cache
def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


Record = Callable[[Event], None]
"""How a layer reports an event; peer and coordinator decide where it goes."""


@dataclass(frozen=True, slots=True)
class PathsPlanned(Event):
    """The conductor planned a step's routes: what they should take, and what no plan can beat. `seconds` it took."""

    step: int
    makespan_seconds: float
    lower_bound_seconds: float
    evaluations: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PathsRepaired(Event):
    """The roster changed after a step's routes were planned: `visits` of them got another peer, the rest stayed."""

    step: int
    visits: int
    makespan_seconds: float
    evaluations: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured(Event):
    """A machine's own figures, as the self-test found them."""

    forward_seconds: float
    backward_seconds: float
    memory_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """The run cannot start yet, or not with this peer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Placed(Event):
    """This peer takes these stages."""

    peer: str
    stages: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class LinksMeasured(Event):
    """What a peer measured of the links it sends on: to whom, one-way seconds, bytes a second (0: not yet), and how
    many messages that rate rests on."""

    peer: str
    links: tuple[tuple[str, float, float, int], ...]


@dataclass(frozen=True, slots=True)
class PeerJoined(Event):
    """A peer is there; `region` and `machine` are its owner's and its own words for where and what it is."""

    peer: str
    name: str
    address: str
    stages: tuple[int, ...]
    island: int = 0
    region: str = ""
    machine: str = ""


@dataclass(frozen=True, slots=True)
class ClockSeen(Event):
    """A peer's clock is `ahead_seconds` of the coordinator's: what it records is shown so much earlier."""

    peer: str
    ahead_seconds: float


@dataclass(frozen=True, slots=True)
class IslandChosen(Event):
    """This peer was to find its island itself, and helps `island`."""

    peer: str
    island: int
    reason: str


@dataclass(frozen=True, slots=True)
class IslandDissolved(Event):
    """This peer gave up an island that could not start or go on, or had no place for it, and looks for another."""

    peer: str
    island: int
    reason: str


@dataclass(frozen=True, slots=True)
class PeerLeft(Event):
    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeerRefused(Event):
    """A handshake was refused; nobody else is affected."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class LinkClosed(Event):
    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class MembershipChanged(Event):
    """A peer enters or leaves the roster."""

    peer: str
    step: int
    roster_version: int
    reason: str


@dataclass(frozen=True, slots=True)
class Recovered(Event):
    """A stage's state came back: from where, at what cost."""

    peer: str
    stage: int
    step: int
    tier: str
    bytes_received: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Learned(Event):
    """A newcomer came to the swarm's step outside of any roster, from the state at `step` and `sum_bytes` of sums."""

    peer: str
    step: int
    joined_step: int
    sum_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StageLost(Event):
    """The last replica of a stage is gone; what follows is a recovery or the end of the run."""

    stage: int
    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Restored(Event):
    """The island goes on at `step` after a stage was lost at `lost_step`; flagged when it is another model (I2)."""

    step: int
    lost_step: int
    tier: str
    stages: tuple[int, ...]
    flagged: bool
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotKept(Event):
    """A stage's state at `step` is in this peer's memory: its own, or held for peers of another stage."""

    stage: int
    step: int
    bytes_received: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Moved(Event):
    """A peer changes stages to where it hurts most; decided by the conductor."""

    peer: str
    from_stages: tuple[int, ...]
    to_stages: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Hedged(Event):
    """A call took much longer than calls of its kind: a second replica was called beside it."""

    step: int
    key: int
    position: int
    from_peer: str
    to_peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class SumChanged(Event):
    """A contribution entered (`change` is add) or left (retract) this peer's sum, on the compute lane."""

    step: int
    position: int
    key: int
    change: str


@dataclass(frozen=True, slots=True)
class SumSealed(Event):
    """The sum of `stage` as it is now is what this peer gives to the reduce of the seal `(term, seal)`."""

    step: int
    term: int
    seal: int
    stage: int


@dataclass(frozen=True, slots=True)
class TermStarted(Event):
    """An edge peer conducts from here on."""

    peer: str
    term: int
    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class StepOpened(Event):
    step: int
    term: int
    roster_version: int
    peers: int
    microbatches: int


@dataclass(frozen=True, slots=True)
class Sealed(Event):
    """A seal was assigned: who owns how many items."""

    step: int
    seal: int
    owners: tuple[tuple[str, int], ...]
    void: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepCommitted(Event):
    """A majority acknowledged the step (R10). `seconds` since the one before; `next_step` comes next, 0: `step + 1`.

    `parameters_sha256` is empty where a new conductor tells of a step that its predecessor acknowledged.
    """

    step: int
    loss: float
    tokens: int
    seconds: float
    learning_rate: float
    gradient_norm: float
    void: tuple[int, ...]
    parameters_sha256: str
    next_step: int = 0


@dataclass(frozen=True, slots=True)
class RoundSent(Event):
    """This peer made its island's contribution to an outer round: `bytes` encoded, weighing `tokens`."""

    stage: int
    fragment: int
    round: int
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RoundChosen(Event):
    """The group decided an outer round: whose contributions count, who votes in the next, and the result's digest.

    `owners` reduced a slice each, of so many `sections`; none where everybody gathered all contributions. The round
    that follows sends in `codec`; empty where it stays what it was.
    """

    stage: int
    fragment: int
    round: int
    islands: tuple[int, ...]
    members: tuple[int, ...]
    result: str
    owners: tuple[str, ...] = ()
    sections: tuple[int, ...] = ()
    codec: str = ""


@dataclass(frozen=True, slots=True)
class RoundMerged(Event):
    """The outer state of a fragment is at `round` now, with digest `outer`, before the island's step `step`: `how` is
    merge, of contributions of so many `tokens`, or catch_up after missed rounds. This peer has received and served so
    many bytes of its contributions and means, and of its outer states, by now; peer.payloads says how they count.
    """

    stage: int
    fragment: int
    round: int
    how: str
    step: int
    outer: str
    received_bytes: int = 0
    served_bytes: int = 0
    tokens: int = 0
    state_received_bytes: int = 0
    state_served_bytes: int = 0


@dataclass(frozen=True, slots=True)
class KeyVoided(Event):
    """A contribution or activation was not finite, or too large for the sum: the key counts nowhere."""

    step: int
    key: int
    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class Rerouted(Event):
    """A caller picked another replica for a position."""

    step: int
    key: int
    position: int
    from_peer: str
    to_peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Banned(Event):
    peer: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class DuplicateDropped(Event):
    """A repeated call was answered from store, or a surplus contribution was retracted."""

    step: int
    key: int
    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class BadMessage(Event):
    """A message failed its checks (I5); it cost its sender, nobody else."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class CallFailed(Event):
    """A call to a peer got no answer; another replica is tried."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Diverged(Event):
    """Replicas of a stage disagree on a digest."""

    step: int
    stage: int
    what: str
    digests: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CheckpointSaved(Event):
    step: int
    path: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RunStopped(Event):
    step: int
    finished: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Noted(Event):
    """A fact without a type of its own; `what` names it."""

    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Replayed(Event):
    """A missing run of positions was driven again from kept bytes (R6)."""

    step: int
    key: int
    position: int


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """A peer of the roster cannot be reached any more."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Traffic(Event):
    """What a peer's links carried in all, framing and retries included."""

    peer: str
    bytes_sent: int
    bytes_received: int
    calls: int


@dataclass(frozen=True, slots=True)
class FaultPlanned(Event):
    """The world will do this: `number` names the fault in its plan, `when` is a time or a point in the protocol."""

    number: int
    fault: str
    peers: tuple[str, ...]
    when: str
    duration_seconds: float
    amount: float


@dataclass(frozen=True, slots=True)
class FaultInjected(Event):
    """The fault `number` of the plan begins now; `detail` says what triggered it and whom it hit."""

    number: int
    fault: str
    detail: str


@dataclass(frozen=True, slots=True)
class FaultEnded(Event):
    """The fault `number` of the plan is over: what it held is let go."""

    number: int
    fault: str


@dataclass(frozen=True, slots=True)
class FaultMissed(Event):
    """The fault `number` of the plan could not happen: the run ended before, or its machine was gone."""

    number: int
    fault: str
    reason: str


@dataclass(frozen=True, slots=True)
class SealAssigned(Event):
    """The recording peer accepted this assignment of owners: bitmaps of keys in hex, by owner and position.

    `sequences` are the middle stages that keys visit, one for all keys or one each; `void` keys count nowhere.
    """

    step: int
    term: int
    seal: int
    microbatches: int
    sequences: tuple[tuple[int, ...], ...]
    owners: tuple[tuple[str, tuple[tuple[int, str], ...]], ...]
    void: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StateApplied(Event):
    """The recording peer applied the decision `(term, seal)` of `step`: digests of its parameters by stage.

    Term 0: it took the state over from elsewhere, and its sums are empty. `next_step` comes next, 0 for `step + 1`.
    `is_aside`: of stages that it is to host, beside those whose sums it adds to.
    """

    step: int
    term: int
    seal: int
    stages: tuple[tuple[int, str], ...]
    next_step: int = 0
    is_aside: bool = False
