"""A peer's spans in its trace: lane tasks, hops to other peers, and reduces."""

from swarmtrain.compute.lane import Kind, Observer, Span
from swarmtrain.monitor.trace import Trace

_TRACKS = {Kind.HOP: "hops", Kind.REDUCE: "reduce"}


def trace_observer(trace: Trace, then: Observer | None) -> Observer:
    """Takes spans into `trace`, and hands them on. A finished reduce ends a step; apply counts to the next."""

    def observe(span: Span) -> None:
        task = span.task
        track = _TRACKS.get(task.kind, "lane")
        name = task.name or task.kind.name.lower()
        trace.span(
            track,
            f"{name} {task.stage}",
            span.start_seconds,
            span.end_seconds,
            stage=task.stage,
            key=task.key,
        )
        if task.kind is Kind.REDUCE:
            trace.next_step()
        if then is not None:
            then(span)

    return observe
