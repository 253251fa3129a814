"""What a peer tells of itself while it works, for people who watch: figures every few seconds, and now and then a step
in detail. Both cost little and less the more peers there are, so that a coordinator can take in a thousand of them.

All peers choose the same steps to tell of without a word between them: those whose number a power of two divides,
the smallest one that leaves enough time between two such steps.
"""

from collections.abc import Callable

from swarmtrain.compute.lane import Kind, Observer, Span
from swarmtrain.core.events import Event, StateApplied
from swarmtrain.core.live import SpanRow, StepTraced
from swarmtrain.core.types import PeerId
from swarmtrain.swarm.records import LINK_PEER_DIGITS

TRACE_SECONDS = 1.0
"""Between two steps that are told in detail, among as many peers as people look at one by one."""
VITALS_SECONDS = 2.0
PEERS_AT_FULL_PACE = 16
SPANS_TOLD = 240
"""Some 8 KB of JSON."""
KEYS_FOLLOWED = 16
"""Of these microbatches the hops are told, which is what a route is put together from."""
SMOOTHING = 0.25


class StepSampler:
    """Collects the spans of chosen steps and hands each on as an event. `peers` says how many there are.

    Two chosen steps are `least_seconds` apart or more.
    """

    def __init__(
        self,
        me: PeerId,
        send: Callable[[Event], None],
        now: Callable[[], float],
        least_seconds: float = TRACE_SECONDS,
    ) -> None:
        self._me, self._send, self._now = me, send, now
        self._least_seconds = least_seconds
        self.peers: Callable[[], int] = lambda: 1
        self._spans: list[SpanRow] | None = None
        self._step = self._left_out = 0
        self._begun_seconds: float | None = None
        self._step_seconds: float | None = None

    def observe(self, then: Observer | None) -> Observer:
        """Takes spans while a chosen step is under way, and hands all of them on."""

        def take(span: Span) -> None:
            if self._spans is not None:
                self._take(self._spans, span)
            if then is not None:
                then(span)

        return take

    def heard(self, event: Event) -> None:
        """A step ends here, and the next one begins, when this peer has applied it."""
        if not isinstance(event, StateApplied) or event.is_aside:
            return
        now, before = self._now(), self._begun_seconds
        if self._spans is not None and event.step == self._step and before is not None:
            spans = tuple(self._spans)
            self._send(StepTraced(self._me, self._step, now - before, spans, self._left_out))
        if before is not None:
            last, known = now - before, self._step_seconds
            self._step_seconds = last if known is None else known + SMOOTHING * (last - known)
        self._begun_seconds = now
        self._step = event.next_step or event.step + 1
        pause_seconds = self._least_seconds * max(1.0, self.peers() / PEERS_AT_FULL_PACE)
        is_chosen = self._step % stride(self._step_seconds or 0.0, pause_seconds) == 0
        self._spans, self._left_out = [] if is_chosen else None, 0

    def _take(self, spans: list[SpanRow], span: Span) -> None:
        task, begun_seconds = span.task, self._begun_seconds or 0.0
        if task.kind is Kind.HOP and task.key >= KEYS_FOLLOWED:
            return
        begin = round(1e6 * max(span.start_seconds - begun_seconds, 0.0))
        length = round(1e6 * (span.end_seconds - span.start_seconds))
        if len(spans) >= SPANS_TOLD:
            self._left_out += 1
            return
        what = task.kind.name.lower()
        spans.append((what, task.stage, task.key, begin, length, task.to[:LINK_PEER_DIGITS]))


def stride(step_seconds: float, pause_seconds: float) -> int:
    """The smallest power of two of steps that takes at least `pause_seconds`; 1 while no step was timed."""
    steps = 1
    while 0.0 < steps * step_seconds < pause_seconds:
        steps *= 2
    return steps


def vitals_pause_seconds(peers: int) -> float:
    """Between two reports of a peer's figures among so many."""
    return VITALS_SECONDS * max(1.0, peers / (4 * PEERS_AT_FULL_PACE))
