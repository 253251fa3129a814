"""The dashboard: one page and what it reads, served from the coordinator's own event loop. Read-only.

`/` the page, `/api/v1/state` all of it as JSON, `/api/v1/events` what changes, `/api/v1/trace?step=N` what peers told
of a step for Perfetto (without a step: of the last ones), `/metrics` for Prometheus, `/healthz`.
The page asks for nothing from elsewhere, and the browser is told to refuse it. A page served on loopback answers
requests for loopback names only: else any web page could read it by a name that resolves to here.
"""

import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swarmtrain.coordinator.perfetto import chrome_trace
from swarmtrain.coordinator.picture import Look, header, links_of, whole
from swarmtrain.coordinator.streams import Streams
from swarmtrain.core.version import VERSION
from swarmtrain.monitor.figures import Values, health_route, metrics_route, registry_of
from swarmtrain.monitor.serving import HttpServer, parse_address

STATIC = Path(__file__).parent / "static"

SECURITY = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Dashboard:
    """Serves what `look()` says. Call `changed()` after every event. `event_counts()` are all events by kind."""

    def __init__(
        self, look: Callable[[], Look], event_counts: Callable[[], dict[str, int]]
    ) -> None:
        self._look, self._event_counts = look, event_counts
        self.streams = Streams(look)
        self._server: HttpServer | None = None

    async def start(self, address: str) -> str:
        """Serve at `address`, host:port; the page's URL. Raises ConfigError when that is impossible."""
        host, _ = parse_address(address)
        self._server = await HttpServer.open(self.app(_is_loopback(host)), address)
        return self._server.url

    def changed(self) -> None:
        self.streams.changed()

    async def close(self) -> None:
        self.streams.close()
        if self._server is not None:
            await self._server.close()

    def app(self, only_loopback: bool) -> ASGIApp:
        """The ASGI app."""
        registry = registry_of(lambda: figures(self._look(), self._event_counts(), self.streams))

        async def page(request: Request) -> Response:
            return FileResponse(STATIC / "index.html")

        async def state(request: Request) -> Response:
            return JSONResponse(whole(self._look()), headers={"cache-control": "no-store"})

        async def trace(request: Request) -> Response:
            return _trace(self._look(), request.query_params.get("step", ""))

        routes = [
            Route("/", page),
            Route("/api/v1/state", state),
            Route("/api/v1/trace", trace),
            Route("/api/v1/events", _Events(self.streams)),
            metrics_route(registry),
            health_route(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        return _Guard(Starlette(routes=routes), only_loopback)


def _trace(look: Look, step: str) -> Response:
    traces = [trace for trace in look.state.history.traces if step in ("", str(trace.step))]
    if not traces:
        known = ", ".join(str(trace.step) for trace in look.state.history.traces) or "none yet"
        return PlainTextResponse(f"peers told of other steps in detail: {known}\n", 404)
    names = {str(peer): view.name for peer, view in look.state.peers.items()}
    file = f"steps-{traces[0].step}-{traces[-1].step}.json"
    headers = {"content-disposition": f'attachment; filename="{file}"', "cache-control": "no-store"}
    return JSONResponse(chrome_trace(traces, names), headers=headers)


class _Events:
    """The endpoint of the streams, as an app of its own: an answer that goes on is no `Response`."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            await PlainTextResponse("read only\n", 405)(scope, receive, send)
        elif self._streams.is_full:
            text = "as many readers as there may be are here; /api/v1/state answers\n"
            await PlainTextResponse(text, 503)(scope, receive, send)
        else:
            await self._streams(scope, receive, send)


class _Guard:
    """Puts the rules for the browser on every answer, and refuses names that are not this machine's."""

    def __init__(self, app: ASGIApp, only_loopback: bool) -> None:
        self._app, self._only_loopback = app, only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
                message = {**message, "headers": headers.raw}
            await send(message)

        if self._only_loopback and not _names_loopback(Headers(scope=scope).get("host", "")):
            refusal = PlainTextResponse(
                "this page is served on this machine, under its name only\n", 421
            )
            await refusal(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


def _names_loopback(host: str) -> bool:
    name = (
        host.removeprefix("[").partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    )
    return _is_loopback(name)


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def figures(look: Look, event_counts: dict[str, int], streams: Streams) -> Values:
    """What `/metrics` of a coordinator says."""
    state, shown = look.state, header(look)
    views = state.peers.values()
    yield "swarmtrain_build", 1, (VERSION,)
    for name, value in (
        ("step", state.step),
        ("steps_planned", look.run.steps),
        ("outer_round", state.rounds),
        ("loss_nats_per_token", state.loss_last),
        ("tokens", state.tokens),
        ("training_seconds", state.seconds),
        ("tokens_per_second", shown["tokens_per_second"]),
        ("bytes_per_token", shown["bytes_per_token"]),
        ("eta_seconds", shown["eta_seconds"]),
        ("faults", state.faults),
        ("recoveries", state.recoveries),
        ("swarm_sent_bytes", state.bytes_sent),
        ("swarm_received_bytes", sum(view.bytes_received for view in views)),
        ("dashboard_readers", streams.readers),
    ):
        yield f"swarmtrain_{name}", value, ()
    yield from _by_label(look)
    for kind, count in sorted(event_counts.items()):
        yield "swarmtrain_events", count, (kind,)


def _by_label(look: Look) -> Iterator[tuple[str, float | None, tuple[str, ...]]]:
    state = look.state
    states = [view.state for view in state.peers.values()]
    for name in ("joining", "serving", "leaving", "lost", "left"):
        yield "swarmtrain_peers", states.count(name), (name,)
    hosted = [stage for view in state.live_peers for stage in view.stages]
    for stage in range(look.run.stages + 1):
        yield "swarmtrain_stage_replicas", hosted.count(stage), (str(stage),)
    for island, step in sorted(state.islands.items()):
        yield "swarmtrain_island_step", step, (str(island),)
    for sender, receiver, seconds, rate, _ in links_of(state.live_peers)["regions"]:
        yield "swarmtrain_link_latency_seconds", seconds, (sender, receiver)
        yield "swarmtrain_link_bytes_per_second", rate or None, (sender, receiver)
