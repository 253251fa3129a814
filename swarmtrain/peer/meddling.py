"""What an armed fault does to a call of another peer: it comes twice, comes late, or its answer is lost.

Without one, calls pass (core/faultpoints.py).
"""

from collections.abc import Awaitable, Callable

from swarmtrain.core.errors import SwarmError
from swarmtrain.core.events import Noted, Record
from swarmtrain.core.faultpoints import reached
from swarmtrain.core.tasks import Tasks
from swarmtrain.transport.link import Link, Message
from swarmtrain.transport.requests import ProcessReply, ProcessRequest

Answer = Callable[[Link, str, Message], Awaitable[Message]]


class Meddling:
    """Stands before the service of calls to `process`. Outcomes of calls that came again are events."""

    def __init__(self, answer: Answer, record: Record) -> None:
        self._answer, self._record = answer, record
        self._late: tuple[Link, Message] | None = None
        self._tasks = Tasks()

    async def call(self, link: Link, request: Message) -> Message:
        """The answer to `request`, whatever else is done with it."""
        self._meddle(reached("process.received"), link, request)
        answer = await self._answer(link, "process", request)
        self._replay_before(request)
        done = reached("process.answered")
        self._meddle(done, link, request)
        if done == "drop":
            # On a stream an answer is lost only together with what follows it.
            await link.close("the answer was lost on purpose")
        return answer

    def _meddle(self, action: str, link: Link, request: Message) -> None:
        if action in ("duplicate", "replay"):
            copy = Message(request.meta, bytearray(request.body))
            if action == "replay":
                self._late = (link, copy)
            else:
                self._again(link, copy)

    def _replay_before(self, request: Message) -> None:
        """The kept call comes again once a call of a later step was answered: its own step is over by then."""
        if self._late is None:
            return
        link, late = self._late
        if ProcessRequest.decode(request.meta).step > ProcessRequest.decode(late.meta).step:
            self._late = None
            self._again(link, late)

    def _again(self, link: Link, request: Message) -> None:
        self._tasks.spawn(self._repeat(link, request), "repeat")

    async def _repeat(self, link: Link, request: Message) -> None:
        hop = ProcessRequest.decode(request.meta)
        try:
            answer = await self._answer(link, "process", request)
            outcome = ProcessReply.decode(answer.meta).status.name
        except SwarmError as error:
            outcome = error.what
        where = f"step {hop.step} key {hop.key} position {hop.position}"
        self._record(Noted("call repeated on purpose", f"{where}: {outcome}"))
