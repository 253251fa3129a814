"""The one table of Prometheus metrics: what `/metrics` of coordinators and peers may say, and in which words.

Names end in their unit, counters in `_total`. Values are read when somebody asks, so that nothing is counted twice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric; a counter's name is written without the `_total` that it is shown with."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()


COORDINATOR = (
    Figure("swarmtrain_step", "gauge", "Committed steps of the shown island."),
    Figure("swarmtrain_steps_planned", "gauge", "Steps that the run is to have."),
    Figure("swarmtrain_outer_round", "gauge", "Outer rounds that a fragment has had at most."),
    Figure("swarmtrain_loss_nats_per_token", "gauge", "Mean loss of the last committed step."),
    Figure("swarmtrain_tokens", "counter", "Tokens in committed steps."),
    Figure("swarmtrain_training_seconds", "counter", "Seconds that committed steps took."),
    Figure("swarmtrain_tokens_per_second", "gauge", "Tokens a second over the last minute."),
    Figure("swarmtrain_bytes_per_token", "gauge", "Bytes on links a token over the last minute."),
    Figure("swarmtrain_eta_seconds", "gauge", "Seconds to the last step at the pace of the last minute."),
    Figure("swarmtrain_peers", "gauge", "Peers by state, lost and left ones included.", ("state",)),
    Figure("swarmtrain_stage_replicas", "gauge", "Peers that host a stage.", ("stage",)),
    Figure("swarmtrain_island_step", "gauge", "Committed steps by island.", ("island",)),
    Figure("swarmtrain_faults", "counter", "Peers that were lost."),
    Figure("swarmtrain_recoveries", "counter", "Recoveries from lost peers and stages."),
    Figure("swarmtrain_swarm_sent_bytes", "counter", "Bytes that all peers' links sent."),
    Figure("swarmtrain_swarm_received_bytes", "counter", "Bytes that all peers' links received."),
    Figure("swarmtrain_link_latency_seconds", "gauge", "Median one-way latency.", ("from_region", "to_region")),
    Figure("swarmtrain_link_bytes_per_second", "gauge", "Median measured rate.", ("from_region", "to_region")),
    Figure("swarmtrain_dashboard_readers", "gauge", "Open event streams of the dashboard."),
)  # fmt: skip

PEER = (
    Figure("swarmtrain_peer_step", "gauge", "The step that this peer is in."),
    Figure("swarmtrain_peer_serving", "gauge", "1 while this peer is in the roster."),
    Figure("swarmtrain_peer_stage", "gauge", "1 for each stage that this peer hosts.", ("stage",)),
    Figure("swarmtrain_peer_sent_bytes", "counter", "Bytes that this peer's links sent."),
    Figure("swarmtrain_peer_received_bytes", "counter", "Bytes that this peer's links received."),
    Figure("swarmtrain_peer_round_received_bytes", "counter", "Bytes of rounds that came here.", ("stage", "of")),
    Figure("swarmtrain_peer_round_served_bytes", "counter", "Bytes of rounds given to others.", ("stage", "of")),
    Figure("swarmtrain_peer_calls", "counter", "Calls that this peer's links carried."),
    Figure("swarmtrain_peer_busy_ratio", "gauge", "Share of the last half minute that the lane computed."),
    Figure("swarmtrain_peer_waiting_tasks", "gauge", "Tasks that waited for the lane, on average."),
    Figure("swarmtrain_peer_resident_bytes", "gauge", "Resident memory of this process."),
    Figure("swarmtrain_peer_links", "gauge", "Open links to other peers."),
)  # fmt: skip

BOTH = (
    Figure("swarmtrain_events", "counter", "Events by kind, as in the journal.", ("kind",)),
    Figure("swarmtrain_build", "gauge", "1; the version is its label.", ("version",)),
)

FIGURES: Mapping[str, Figure] = {figure.name: figure for figure in (*COORDINATOR, *PEER, *BOTH)}

Values = Iterable[tuple[str, float | None, tuple[str, ...]]]
"""Name in `FIGURES`, value (None: not known, left out), labels."""


class _Reader(Collector):
    def __init__(self, read: Callable[[], Values]) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Nothing: values are read when asked for, not when this is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, value, labels in self._read():
            figure = FIGURES[name]
            if name not in families:
                family = GaugeMetricFamily if figure.kind == "gauge" else CounterMetricFamily
                families[name] = family(name, figure.help, labels=figure.labels)
            if value is not None:
                families[name].add_metric(labels, value)
        yield from families.values()


def registry_of(read: Callable[[], Values]) -> CollectorRegistry:
    """A registry of its own that says what `read` says. Raises KeyError when asked, for a name not in `FIGURES`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reader(read))
    return registry


def metrics_route(registry: CollectorRegistry) -> Route:
    """`/metrics` as Prometheus reads it."""

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE})

    return Route("/metrics", metrics)


def health_route() -> Route:
    """`/healthz` answers as long as the event loop turns."""

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Route("/healthz", health)


def metrics_app(read: Callable[[], Values]) -> Starlette:
    """An app of these two alone."""
    return Starlette(routes=[metrics_route(registry_of(read)), health_route()])
