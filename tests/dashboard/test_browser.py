"""The page in a real browser during a real run: a peer is killed, another joins, a third is called after a script."""

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from swarmtrain.core.events import Noted, PeerJoined, Placed
from swarmtrain.core.types import PeerId
from swarmtrain.monitor.journal import journal_line
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import LinkLimits
from swarmtrain.transport.requests import EventBatch
from tests.coordinator.test_service import Guest
from tests.dashboard.browser import browser, why_not
from tests.integration.processes import ROOT, SMALL_RUN, Workplace, events_in, until

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

SHOWN_SECONDS = 2.0
SCRIPT = "<script>window.owned = 1</script>"
IMAGE = "\"><img src=x onerror='window.owned = 2'>"
PINS = ("0:1", "2", "0:2")
STEPS = 100_000


class Page:
    """What the page shows, read from its elements."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def text(self, selector: str) -> str:
        find = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent).join(' | ')"
        return str(self.driver.execute_script(find, selector))

    def count(self, selector: str) -> int:
        find = "return document.querySelectorAll(arguments[0]).length"
        return int(self.driver.execute_script(find, selector))

    def route_step(self) -> int:
        return int(self.text("#route-step").rpartition(" ")[2] or -1)

    def shows(self, what: str, selector: str, since_seconds: float) -> float:
        """Seconds from `since_seconds` until an element that `selector` finds says `what`. Fails the test."""
        until(lambda: what in self.text(selector), 30, f"{what!r} in {selector}")
        return time.monotonic() - since_seconds


@pytest.fixture
def invented(tmp_path: Path) -> Iterator[Page]:
    """The page of a run that nobody trains, with a thousand peers."""
    command = [
        sys.executable,
        "-m",
        "tests.dashboard.invented",
        "--peers",
        "1000",
        "--hostile",
        SCRIPT,
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with browser(1440) as driver:
                driver.get(url)
                yield Page(driver, tmp_path)
        finally:
            process.terminate()


def test_a_thousand_invented_peers_are_drawn_and_their_names_are_text(invented: Page):
    until(
        lambda: invented.count("#topology .dot") and invented.count("#topology .route"),
        30,
        "routes",
    )
    until(lambda: invented.count("#gantt canvas") and invented.count("#curve canvas"), 30, "charts")
    until(lambda: "lost" in invented.text("#curve-key"), 30, "a mark")
    assert "1,000" in invented.text("#tiles") or "999" in invented.text("#tiles")
    assert invented.count("#topology .skips") > 0 and "serving" in invented.text("#map")
    until(lambda: "directly" in invented.text("#peers td"), 30, "who was dialled")
    assert "not known" in invented.text("#peers td")
    assert invented.count("*") < 3000, "the page stays small"
    until(lambda: SCRIPT in invented.text("#log"), 30, "the hostile name in the log")
    assert invented.driver.execute_script("return window.owned") is None
    assert invented.count("main script, main img") == 0
    for entry in invented.driver.get_log("browser"):
        raise AssertionError(f"the browser complained: {entry['message']}")
    wait = "const s = performance.now(); return new Promise((f) => setTimeout(() => f(performance.now() - s), 1))"
    assert invented.driver.execute_script(wait) < 2000, "the page is not busy"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, Workplace, str]]:
    place = Workplace(tmp_path_factory.mktemp("page"))
    try:
        run_file, out = place.write("run.toml", SMALL_RUN), place.folder / "out"
        pins = [word for pin in PINS for word in ("--stage", pin)]
        arguments = ("up", run_file, "--peers", 3, "--steps", STEPS, "--out", out, *pins)
        up = place.start(*arguments, "--dashboard", "127.0.0.1:0")
        url = up.until_prints(" dashboard ")
        with browser(1440) as driver:
            driver.get(url)
            up.until_prints(f"step 1/{STEPS}")
            yield Page(driver, out), place, url
        up.signal(signal.SIGINT)
        assert up.wait(60) == 130, up.output
        place.expect_nothing_left(10)
    finally:
        place.close()


def state_of(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}api/v1/state") as answer:
        return dict(json.load(answer))


@pytest.mark.slow
def test_a_kill_and_a_newcomer_are_shown_at_once(page: tuple[Page, Workplace, str]):
    shown, place, url = page
    until(
        lambda: shown.count("#topology .route") and shown.count("#gantt canvas"),
        60,
        "routes, gantt",
    )
    until(lambda: "stage 2" in shown.text("#map"), 10, "the map")
    assert shown.count("#curve canvas") == 1 and "contributor" not in shown.text("#credit")
    (victim,) = place.named("--name peer-2 ")
    lost_id = next(
        e["peer"] for e in events_in(shown.folder, "peer_joined") if e["name"] == "peer-2"
    )
    killed = time.monotonic()
    victim.send_signal(signal.SIGKILL)
    until(lambda: events_in(shown.folder, "lost"), 30, "the loss in the journal")
    known = time.monotonic()
    step = state_of(url)["header"]["step"]
    delays = {
        "map": shown.shows("peer-2", "#map .state-lost", known),
        "log": shown.shows("peer-2 is lost", "#log .bad", known),
        "mark": shown.shows("lost", "#curve-key", known),
        "table": shown.shows("lost", "#peers tr.gone", known),
    }
    until(lambda: shown.route_step() > step, 30, "routes of a step after the loss")
    delays["routes"] = time.monotonic() - known
    routes = state_of(url)["routes"]["routes"]
    assert lost_id not in {peer for route in routes for _, peer in route["visits"]}
    print(f"known {known - killed:.2f} s after the kill; shown after", delays)
    assert max(delays.values()) < SHOWN_SECONDS, delays

    address = state_of(url)["header"]["coordinator"]
    newcomer = place.start("peer", "--join", address, "--name", "newcomer", "--region", "Here")
    joined = until(lambda: "newcomer" in shown.text("#log .good"), 90, "the newcomer in the log")
    known = time.monotonic()
    assert joined and newcomer.process.poll() is None
    delays = {
        "map": shown.shows("newcomer", "#map .state-serving", known),
        "mark": shown.shows("joined", "#curve-key", known),
        "lanes": shown.shows("newcomer", "#topology text", known),
        "table": shown.shows("newcomer", "#peers tbody", known),
    }
    print("the newcomer is shown after", delays)
    assert max(delays.values()) < SHOWN_SECONDS, delays
    newcomer.signal(signal.SIGINT)
    newcomer.wait(60)


@pytest.mark.slow
def test_what_peers_call_themselves_is_text(page: tuple[Page, Workplace, str]):
    shown, _, url = page
    header = state_of(url)["header"]
    asyncio.run(meddle(header["coordinator"], header["run_hash"]))
    until(lambda: SCRIPT in shown.text("#peers td"), 20, "its name, as text")
    until(
        lambda: SCRIPT in shown.text("#map") and SCRIPT in shown.text("#topology text"),
        20,
        "everywhere",
    )
    assert IMAGE in shown.text("#log") and IMAGE in shown.text("#topology text") + shown.text(
        "#peers td"
    )
    time.sleep(0.5)
    assert shown.driver.execute_script("return window.owned") is None
    assert shown.count("main script, main img, [onerror]") == 0
    for entry in shown.driver.get_log("browser"):
        raise AssertionError(f"the browser complained: {entry['message']}")
    names = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert all(name.startswith(url) for name in shown.driver.execute_script(names))


async def meddle(address: str, run_hash: str) -> None:
    """Join as a peer whose words are markup; nothing else is needed to be shown."""
    transport = GrpcTransport(LinkLimits())
    evil = PeerId("e" * 32)
    guest = Guest(evil, run=bytes.fromhex(run_hash))
    now = asyncio.get_running_loop().time()
    events = (
        PeerJoined(evil, SCRIPT, IMAGE, (), 0, IMAGE, SCRIPT),
        Placed(evil, (1, 2), IMAGE),
        Noted(SCRIPT, IMAGE),
    )
    try:
        link = await transport.dial(address, guest.hello(), guest, 10.0)
        lines = tuple(journal_line(event, now, evil) for event in events)
        link.tell("events", EventBatch(evil, lines, 0).encode())
        await asyncio.sleep(1.0)
    finally:
        await transport.close()


@pytest.mark.slow
def test_a_phone_shows_everything_without_scrolling_sideways(page: tuple[Page, Workplace, str]):
    shown, _, url = page
    with browser(390, 844, dark=True) as driver:
        driver.get(url)
        phone = Page(driver, shown.folder)
        until(lambda: phone.count("#topology .dot"), 20, "the topology")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert phone.count("section .age") == phone.count("section") == 7
        until(lambda: phone.count("#gantt canvas"), 20, "the Gantt")


@pytest.mark.slow
def test_panels_grow_old_when_the_coordinator_is_silent(page: tuple[Page, Workplace, str]):
    shown, place, url = page
    (up,) = [command for command in place.commands if command.name.startswith("up")]
    coordinator = psutil.Process(up.process.pid)
    coordinator.suspend()
    try:
        until(lambda: "no word from the coordinator" in shown.text("#live"), 20, "the silence")
        until(lambda: shown.count("section.stale") >= 6, 20, "stale panels")
    finally:
        coordinator.resume()
    until(lambda: shown.text("#live") == "live", 20, "life again")
    before = state_of(url)["header"]["step"]
    until(lambda: state_of(url)["header"]["step"] > before, 30, "training goes on")
    until(lambda: shown.count("section.stale") == 0, 30, "fresh panels")
