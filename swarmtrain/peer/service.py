"""What a peer answers on its links: who may come in, and which calls it serves."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from swarmtrain.core.errors import Incompatible, Refused, SwarmError, WireError
from swarmtrain.core.events import BadMessage, LinkClosed, Noted, PeerRefused, Record
from swarmtrain.core.messages import CheckpointAt
from swarmtrain.peer.links import Links
from swarmtrain.peer.meddling import Meddling
from swarmtrain.peer.probing import ProbeAnswers
from swarmtrain.peer.rosters import Rosters
from swarmtrain.peer.runtime import Runtime
from swarmtrain.recovery.serving import layout_answer, state_piece
from swarmtrain.swarm import checkups
from swarmtrain.transport.link import Hello, Link, Message
from swarmtrain.transport.messages import decode, decode_round
from swarmtrain.transport.requests import (
    Description,
    FinishRequest,
    LearnRequest,
    OuterStateRequest,
    PieceRequest,
    ProcessRequest,
    RosterRequest,
    RoundPieceRequest,
    StateReply,
    StateRequest,
    Status,
    WhereReply,
    WhereRequest,
    WithdrawRequest,
)
from swarmtrain.wire.states import is_worth_packing, pack


@dataclass(frozen=True, slots=True)
class Calls:
    """What the service asks of its session: who we are, and where one-way control goes."""

    hello: Callable[[], Hello]
    describe: Callable[[], Description]
    on_drain: Callable[[str], None]
    on_finish: Callable[[str], None]
    on_checkpoint: Callable[[CheckpointAt], None]


class Service:
    """The transport's handler at a peer. `runtime` is None until the peer has its stages."""

    links: Links
    rosters: Rosters
    checkups: checkups.Checkups

    def __init__(self, calls: Calls, record: Record) -> None:
        self._calls, self._record = calls, record
        self._meddling = Meddling(self._answer, record)
        self._probes = ProbeAnswers()
        self.runtime: Runtime | None = None
        # Whether this peer leaves an island that began: to those who knew it there it is gone.
        self.is_parting = False
        self.is_coordinator: Callable[[Link], bool] = lambda link: False

    async def part(self, seconds: float) -> None:
        """Hang up on all other peers, and let none in for so long: none can take this one for lost any later."""
        self.is_parting = True
        await self.links.part("leaves its island, which cannot go on")
        await asyncio.sleep(seconds)
        self.is_parting = False

    # ---- the transport's Handler --------------------------------------------------------------------------------

    def hello(self) -> Hello:
        return self._calls.hello()

    def check(self, hello: Hello) -> None:
        """Refuse other versions, runs and corpora before they cost anything (I4)."""
        if hello.role == "query":
            return
        if self.is_parting and hello.role == "peer":
            raise Refused("this peer leaves its island", "it cannot go on", "it says where it goes")
        try:
            check_compatible(self._calls.hello(), hello)
        except Incompatible as error:
            self._record(PeerRefused(hello.peer, f"{error.what}: {error.why}"))
            raise
        if hello.kernel_class != self._calls.hello().kernel_class:
            detail = f"{hello.peer}: {hello.kernel_class}; here: {self._calls.hello().kernel_class}"
            self._record(Noted("kernel classes differ, so bits may", detail))

    def opened(self, link: Link) -> None:
        # Who is forming comes to measure and goes again: its link is no way to reach it.
        if link.remote.role != "forming":
            self.links.opened(link)

    def closed(self, link: Link, reason: str) -> None:
        if link.remote.role == "forming":
            return
        if link.remote.role != "query":
            self._record(LinkClosed(link.remote.peer, reason))
            self.rosters.closed(link)
        self.links.closed(link, reason)

    def tell(self, link: Link, method: str, meta: bytes) -> None:
        try:
            self._take(link, method, meta)
        except WireError as error:
            self._record(BadMessage(link.remote.peer, f"{method}: {error.what} ({error.why})"))
            raise
        except Exception as error:
            # Nobody waits for an answer: also what a call would be refused with is said here or nowhere (I7).
            self._record(Noted("internal error", f"{method}: {error!r}"))
            raise

    def _take(self, link: Link, method: str, meta: bytes) -> None:
        if link.remote.role in ("query", "forming"):
            raise WireError(
                f"a {link.remote.role} process may not tell anything", f"method {method}"
            )
        match method:
            case "step" if link.remote.island != self._calls.hello().island:
                raise WireError("a step message from another island", link.remote.peer)
            case "step":
                self.rosters.take(link, meta)
            case "withdraw":
                request = WithdrawRequest.decode(meta)
                if self.runtime is not None and request.base == self.runtime.member.base:
                    item = (request.position, request.key)
                    self.runtime.worker.withdraw(link.remote.peer, request.step, item)
            case "round":
                if self.runtime is not None and self.runtime.island.rounds is not None:
                    self.runtime.island.rounds.receive(link.remote.peer, decode_round(meta))
            case "drain" | "finish" | "checkpoint" if not self.is_coordinator(link):
                raise WireError("only the run's coordinator may end it", f"method {method}")
            case "checkpoint":
                self._calls.on_checkpoint(decode(CheckpointAt, meta))
            case "drain":
                self._calls.on_drain(FinishRequest.decode(meta).reason)
            case "finish":
                self._calls.on_finish(FinishRequest.decode(meta).reason)
            case _:
                raise WireError("an unknown one-way method", method)

    async def call(self, link: Link, method: str, request: Message) -> Message:
        try:
            if method == "process":
                return await self._meddling.call(link, request)
            return await self._answer(link, method, request)
        except WireError as error:
            self._record(BadMessage(link.remote.peer, f"{method}: {error.what} ({error.why})"))
            raise
        except SwarmError:
            raise
        except Exception as error:
            self._record(Noted("internal error", f"{method}: {error!r}"))
            raise

    # ---- methods ------------------------------------------------------------------------------------------------

    async def _answer(self, link: Link, method: str, request: Message) -> Message:
        if method == "describe":
            return Message(self._calls.describe().encode())
        if method in checkups.METHODS:
            return await self.checkups.answer(link, method, request)
        if link.remote.role == "query":
            raise Refused("a query may only ask for the description", f"method {method}")
        if method == "probe":
            return self._probes.answer(link, request)
        if link.remote.role == "forming":
            raise Refused("a peer without an island may only measure its line", f"method {method}")
        theirs = link.remote
        is_foreign = theirs.role == "peer" and theirs.island != self._calls.hello().island
        if is_foreign and method not in ("round_piece", "outer_state"):
            raise Refused("another island has only outer rounds in common", f"method {method}")
        if method == "roster":
            return self.rosters.answer(RosterRequest.decode(request.meta))
        runtime = self.runtime
        if runtime is None:
            raise Refused("this peer has no stages yet", "", "call again when it is in the roster")
        match method:
            case "process":
                hop = ProcessRequest.decode(request.meta)
                reply, body = await runtime.worker.process(link.remote.peer, hop, request.body)
                return Message(reply.encode(), body)
            case "where":
                where = WhereRequest.decode(request.meta)
                item = (where.position, where.key)
                is_below = runtime.worker.hops.is_below(where.step, item)
                return Message(WhereReply(is_below).encode())
            case "piece":
                wanted = PieceRequest.decode(request.meta)
                taught = await runtime.teaching.piece(wanted)
                piece, body = taught or await runtime.reducer.piece(wanted)
                return Message(piece.encode(), body)
            case "round_piece" if runtime.island.rounds is not None:
                piece_request = RoundPieceRequest.decode(request.meta)
                return await runtime.island.rounds.payloads.answer(piece_request)
            case "outer_state" if runtime.island.rounds is not None:
                state_request = OuterStateRequest.decode(request.meta)
                return await runtime.island.rounds.answer_state(link.remote.peer, state_request)
            case "learn":
                asked = LearnRequest.decode(request.meta)
                return Message((await runtime.teaching.answer(link.remote.peer, asked)).encode())
            case "state":
                return _state(link, runtime, StateRequest.decode(request.meta))
            case "layout":
                return _layout(runtime, StateRequest.decode(request.meta))
            case _:
                raise WireError("an unknown method", method)


def check_compatible(here: Hello, there: Hello) -> None:
    """Raise Incompatible when two processes cannot be in one run."""
    if there.version != here.version:
        raise Incompatible(
            "the other side runs another version of swarmtrain",
            f"{there.version or 'unknown'} against {here.version}",
            "install the same version on both sides",
        )
    if there.run != here.run:
        raise Incompatible(
            "the other side belongs to another run",
            f"its configuration hashes to {there.run.hex()[:12]}, this one to {here.run.hex()[:12]}",
            "join with the configuration of the run, or leave --config out to take the run's own",
        )
    if here.corpus and there.corpus and there.corpus != here.corpus:
        raise Incompatible(
            "the other side has another corpus",
            f"it hashes to {there.corpus[:12]}, here to {here.corpus[:12]}",
            "use the same data (for stdlib: the same Python version) on every edge peer",
        )


def _state(link: Link, runtime: Runtime, request: StateRequest) -> Message:
    """A piece of a stage's parameters and moments at the step this peer holds, packed on a slow line.

    A piece of no length asks for the digests of parameters and moments.
    """
    member = runtime.member
    packs = pack if is_worth_packing(link.stats.bytes_per_second) else None
    snapshot = runtime.teaching.state(request) or runtime.snapshots.get(request.stage, request.step)
    if snapshot is not None:
        return state_piece(snapshot.state, snapshot.at.base, request, packs)
    if request.stage not in runtime.replicas:
        raise WireError("this peer does not have that stage", f"stage {request.stage}")
    if request.step != member.step or member.is_busy:
        fenced = StateReply(Status.FENCED, member.step, member.base, 0, (), b"")
        return Message(fenced.encode())
    return state_piece(runtime.island.parts.state_of(request.stage), member.base, request, packs)


def _layout(runtime: Runtime, request: StateRequest) -> Message:
    """Names and shapes of a stage's parameters, in the order of its flat layout, as JSON."""
    if request.stage in runtime.replicas:
        return layout_answer(runtime.island.parts.state_of(request.stage))
    for snapshot in runtime.snapshots:
        if snapshot.at.stage == request.stage:
            return layout_answer(snapshot.state)
    raise WireError("this peer does not have that stage", f"stage {request.stage}")
