"""The dashboard's server: what it answers and refuses, streams that nobody has to wait for, metrics by one table."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from swarmtrain.coordinator import streams, web
from swarmtrain.coordinator.picture import Look
from swarmtrain.coordinator.state import RunState, apply
from swarmtrain.coordinator.web import Dashboard
from swarmtrain.core.errors import ConfigError
from swarmtrain.monitor.figures import COORDINATOR, FIGURES, registry_of
from swarmtrain.monitor.serving import parse_address
from tests.dashboard.invented import Entry, Invented


class Scene:
    """A dashboard of an invented run, at a free port."""

    def __init__(self, peers: int) -> None:
        self.invented, self.state = Invented(peers), RunState()
        self.dashboard = Dashboard(self.look, lambda: {"lost": 2})
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    def look(self) -> Look:
        return Look(self.invented.run, self.state, asyncio.get_running_loop().time())

    def take(self, entry: Entry) -> None:
        self.state = apply(self.state, entry)
        self.dashboard.changed()

    async def get(self, path: str, headers: str = "", method: str = "GET") -> tuple[int, str, str]:
        """Status, head and body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        host = "" if "host:" in headers else f"host: 127.0.0.1:{self.port}\r\n"
        writer.write(
            f"{method} {path} HTTP/1.1\r\n{host}{headers}connection: close\r\n\r\n".encode()
        )
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode().lower(), body.decode()

    async def stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        self._writers.append(writer)  # one that nobody holds is closed
        return reader, writer


async def told(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    """The next event of a stream: its kind and data."""
    while True:
        line = (await reader.readuntil(b"\n")).decode()
        if line.startswith("event: "):
            kind = line.removeprefix("event: ").strip()
            data = (await reader.readuntil(b"\n")).decode()
            return kind, json.loads(data.removeprefix("data: "))


@asynccontextmanager
async def scene(peers: int = 5) -> AsyncIterator[Scene]:
    place = Scene(peers)
    url = await place.dashboard.start("127.0.0.1:0")
    place.port = int(url.rstrip("/").rpartition(":")[2])
    for entry in (*place.invented.begin(), *place.invented.links(0.0)):
        place.take(entry)
    try:
        yield place
    finally:
        await place.dashboard.close()


def play(act: Callable[[Scene], Awaitable[None]], peers: int = 5) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), scene(peers) as place:
            await act(place)

    asyncio.run(main())


def test_pages_state_and_rules_for_the_browser():
    async def act(place: Scene) -> None:
        status, head, body = await place.get("/")
        assert status == 200 and "<!doctype html>" in body
        assert "content-security-policy: default-src 'self';" in head and "nosniff" in head
        status, head, body = await place.get("/api/v1/state")
        state = json.loads(body)
        assert (status, state["header"]["peers"]) == (200, 5) and "no-store" in head
        assert (await place.get("/healthz"))[2] == "ok\n"
        for path in sorted(file.name for file in web.STATIC.glob("*.*")):
            assert (await place.get(f"/static/{path}"))[0] == 200
        assert (await place.get("/static/../web.py"))[0] == 404
        assert (await place.get("/nothing"))[0] == 404

    play(act)


def test_a_step_is_a_file_for_perfetto():
    async def act(place: Scene) -> None:
        assert (await place.get("/api/v1/trace"))[0] == 404
        for step in (0, 1):
            for entry in (*place.invented.step(step, 1.0), *place.invented.traces(step, 1.0)):
                place.take(entry)
        status, head, body = await place.get("/api/v1/trace?step=1")
        assert status == 200 and 'filename="steps-1-1.json"' in head
        events = json.loads(body)["traceEvents"]
        spans = [event for event in events if event["ph"] == "X"]
        work = {(e["cat"], e["args"]["stage"], e["args"]["microbatch"]) for e in spans}
        assert len(spans) == len(work) == 8 * (5 + 1 + 5 - 1) + 8 and {
            e["args"]["step"] for e in spans
        } == {1}
        named = {e["args"]["name"] for e in events if e["name"] == "process_name"}
        assert named == {f"volunteer-{n}" for n in range(1, 6)}
        both = json.loads((await place.get("/api/v1/trace"))[2])["traceEvents"]
        assert len([event for event in both if event["ph"] == "X"]) == 2 * len(spans)
        assert (await place.get("/api/v1/trace?step=7"))[0] == 404

    play(act)


@pytest.mark.parametrize("path", ["/", "/api/v1/state", "/api/v1/events", "/metrics"])
def test_it_is_read_only(path: str):
    async def act(place: Scene) -> None:
        for method in ("POST", "PUT", "DELETE"):
            assert (await place.get(path, method=method))[0] == 405

    play(act)


def test_names_that_only_resolve_to_here_are_refused():
    async def act(place: Scene) -> None:
        assert (await place.get("/api/v1/state", "host: evil.example\r\n"))[0] == 421
        for name in ("localhost", "localhost:80", "127.0.0.1", "[::1]:8787"):
            assert (await place.get("/api/v1/state", f"host: {name}\r\n"))[0] == 200

    play(act)


def test_the_page_asks_for_nothing_from_elsewhere_and_parses_no_markup():
    own = [file for file in web.STATIC.iterdir() if file.suffix in (".js", ".html", ".css", ".svg")]
    assert len(own) > 8
    for file in own:
        text = file.read_text()
        found = set(re.findall(r"https?://[^\"'\s)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not found, f"{file.name}: {found}"
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text
        )
        assert not re.search(r"\son\w+=|\sstyle=|<script>", text) or file.suffix == ".js"


def test_the_vendored_library_is_what_its_note_says():
    import hashlib

    folder = web.STATIC / "vendor"
    note = (folder / "README.txt").read_text()
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        assert f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}" in note
    assert "MIT" in (folder / "uPlot.LICENSE").read_text()


# ---- streams


def test_a_stream_begins_with_everything_and_goes_on_with_changes():
    async def act(place: Scene) -> None:
        reader, writer = await place.stream()
        kind, state = await told(reader)
        assert kind == "state" and len(state["peers"]) == 5
        for entry in place.invented.step(0, asyncio.get_running_loop().time()):
            place.take(entry)
        kind, change = await told(reader)
        assert kind == "changes" and change["header"]["step"] == 1
        assert len(change["curve"]["points"]) == 1 and "log" not in change
        writer.close()
        while place.dashboard.streams.readers:
            place.dashboard.changed()
            await asyncio.sleep(0.01)

    play(act)


def test_a_thousand_peers_are_news_within_half_a_second():
    async def act(place: Scene) -> None:
        loop = asyncio.get_running_loop()
        reader, _ = await place.stream()
        await told(reader)
        delays = []
        for step in range(5):
            at = loop.time()
            for entry in (*place.invented.step(step, at), *place.invented.traces(step, at)):
                place.take(entry)
            while True:
                _, change = await told(reader)
                if change.get("header", {}).get("step") == step + 1:
                    break
            delays.append(loop.time() - at)
            assert len(json.dumps(change)) < 600_000
        assert sorted(delays)[2] < 0.5, delays

    play(act, peers=1000)


def test_a_reader_that_takes_nothing_in_holds_nobody_and_is_let_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "STALL_SECONDS", 1.0)

    async def act(place: Scene) -> None:
        loop = asyncio.get_running_loop()
        slow, _ = await place.stream()
        quick, _ = await place.stream()
        slow._transport.pause_reading()  # type: ignore[attr-defined]
        await told(quick)
        step, begin = 0, loop.time()
        while place.dashboard.streams.readers > 1:
            before = time.process_time()
            for entry in (
                *place.invented.step(step, loop.time()),
                *place.invented.traces(step, loop.time()),
            ):
                place.take(entry)
            assert time.process_time() - before < 2.0
            kind, _change = await told(quick)
            step += 1
            assert kind == "changes" and loop.time() < begin + 40, "the slow one is still here"
        assert step > 2 and place.dashboard.streams.readers == 1

    play(act, peers=300)


def test_only_so_many_readers_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "MOST_READERS", 2)

    async def act(place: Scene) -> None:
        kept = [await place.stream() for _ in range(2)]
        assert (await place.get("/api/v1/events"))[0] == 503
        assert (await place.get("/api/v1/state"))[0] == 200
        assert len(kept) == 2

    play(act)


def test_closing_ends_streams_and_frees_the_port():
    async def main() -> None:
        async with scene() as place:
            reader, _ = await place.stream()
            port = place.port
        assert b"event: end" in await reader.read()
        again = Dashboard(place.look, dict)
        assert (await again.start(f"127.0.0.1:{port}")).endswith(f":{port}/")
        with pytest.raises(ConfigError, match="nothing can be served at"):
            await Dashboard(place.look, dict).start(f"127.0.0.1:{port}")
        await again.close()

    asyncio.run(main())


@pytest.mark.parametrize("address", ["", "8787", "localhost", "a:b", "host:99999", "http://x:1/"])
def test_addresses_that_are_none_are_refused(address: str):
    with pytest.raises(ConfigError):
        parse_address(address)


# ---- metrics


def test_metrics_are_those_of_the_table_and_well_formed():
    async def act(place: Scene) -> None:
        for entry in place.invented.step(0, 1.0):
            place.take(entry)
        status, head, body = await place.get("/metrics")
        assert status == 200 and "text/plain" in head
        families = {family.name: family for family in text_string_to_metric_families(body)}
        assert families.keys() >= {figure.name for figure in COORDINATOR} - {
            "swarmtrain_eta_seconds"
        }
        assert families.keys() <= FIGURES.keys()
        (step,) = families["swarmtrain_step"].samples
        assert step.value == 1.0
        assert families["swarmtrain_tokens"].samples[0].name == "swarmtrain_tokens_total"
        states = {
            sample.labels["state"]: sample.value for sample in families["swarmtrain_peers"].samples
        }
        assert states["serving"] == 5

    play(act)


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES.keys())
def test_names_of_metrics_keep_to_the_conventions(figure: Any):
    assert re.fullmatch("swarmtrain(_[a-z]+)+", figure.name)
    assert not figure.name.endswith(("_total", "_count", "_sum", "_milliseconds", "_kilobytes"))
    assert figure.help.endswith(".") and (figure.help[0].isupper() or figure.help[0].isdigit())
    assert all(re.fullmatch("[a-z_]+", label) for label in figure.labels)


def test_a_metric_that_is_in_no_table_is_noticed():
    with pytest.raises(KeyError):
        generate_latest(registry_of(lambda: [("swarmtrain_made_up", 1, ())]))


def test_static_files_are_in_the_package():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["swarmtrain"]
    packaged = {
        path for pattern in patterns for path in Path(web.__file__).parents[1].glob(pattern)
    }
    assert {path for path in web.STATIC.rglob("*") if path.is_file()} <= packaged
