"""What a step machine asks of the world. The peer's island driver carries effects out, in order."""

from dataclasses import dataclass

from swarmtrain.core.events import Event
from swarmtrain.core.messages import Commit, Hint, Restore, StageDigest, StepMessage
from swarmtrain.core.types import Digest, Item, PeerId, Roster
from swarmtrain.steps.restoring import Choice


@dataclass(frozen=True, slots=True)
class Send:
    to: PeerId
    message: StepMessage


@dataclass(frozen=True, slots=True)
class Drive:
    """Call a replica of `position` for `key` with kept bytes; position 0 means: lead the key from its samples.

    `seal` is 0 while the step runs; the driver reports `driven(key, position, seal)` when the call came back.
    """

    step: int
    key: int
    position: int
    seal: int
    hints: tuple[Hint, ...]


@dataclass(frozen=True, slots=True)
class Retract:
    """Take these items out of the accumulators again."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Reduce:
    """Snapshot the accumulators and reduce them with the replicas in `roster`; report `reduced(...)`."""

    step: int
    term: int
    seal: int
    roster: Roster
    tokens: int


@dataclass(frozen=True, slots=True)
class CancelReduce:
    """A newer seal supersedes the running reduce."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply the decision into the second buffer; report `applied(...)` with the parameter digests."""

    commit: Commit


@dataclass(frozen=True, slots=True)
class Advance:
    """The peer now serves `step` on `base`."""

    step: int
    base: Digest


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop what is kept for steps before `step` (R11)."""

    step: int


@dataclass(frozen=True, slots=True)
class Resync:
    """This peer's state is not the decided one of `epoch`: fetch `stages` from siblings before serving again.

    `base` tells it from what a sibling may still hold of a history that a restore gave up. The stages in `keeps` are
    right already; it is none unless the peer only moves.
    """

    step: int
    base: Digest
    epoch: int
    stages: tuple[int, ...]
    keeps: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Recollect:
    """Tell `to` which states this peer keeps (KEPT of try `seal`), once what is being applied is applied."""

    to: PeerId
    seal: int


@dataclass(frozen=True, slots=True)
class Load:
    """Give up the work of this step and load the stages that `restore` gives this peer; report `restored(...)`."""

    restore: Restore


@dataclass(frozen=True, slots=True)
class Rehost:
    """The conductor wants this peer to host `stages` from the next step on: ask for it with JOIN."""

    stages: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class AwaitHost:
    """No peer has room for a lost stage: wait for one that joins, for as long as newcomers are given."""

    reason: str


@dataclass(frozen=True, slots=True)
class Revived:
    """The island stands again where `choice` says; the stage was lost at `lost_step`."""

    choice: Choice
    lost_step: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A majority is ready after `commit` (R10): metrics, checkpoints and the dashboard may show it."""

    commit: Commit
    stages: tuple[StageDigest, ...]


@dataclass(frozen=True, slots=True)
class Unsurvivable:
    """The run cannot go on without a wrong step (I2)."""

    reason: str


@dataclass(frozen=True, slots=True)
class StepDown:
    """A higher term exists: this peer no longer conducts."""

    term: int


LEFT = "left the run between two steps; nothing had to be replayed"
"""Why a peer's run ends after its wish to leave was fulfilled."""


@dataclass(frozen=True, slots=True)
class End:
    """The run is over for this peer."""

    finished: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    event: Event


Effect = (
    Send
    | Drive
    | Retract
    | Reduce
    | CancelReduce
    | Apply
    | Advance
    | Forget
    | Resync
    | Acknowledged
    | Unsurvivable
    | StepDown
    | Recollect
    | Rehost
    | Load
    | AwaitHost
    | Revived
    | End
    | Note
)
