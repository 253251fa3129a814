"""How long news take to a browser, and what the page costs its coordinator, with invented events of many peers.

    python -m benchmarks.dashboard --peers 1000 --steps 40

Delays are from an event's arrival at the coordinator to a reader of the stream, to the page's script, and to the
changed page; memory is that of the serving process: its state and server beside the bare interpreter with the
coordinator's modules.
"""

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import psutil

from swarmtrain.coordinator.picture import Look
from swarmtrain.coordinator.state import RunState, apply
from tests.dashboard.browser import browser, why_not
from tests.dashboard.invented import Entry, Invented

WATCH = """
window.arrived = {}; window.drawn = {};
const stream = new EventSource("/api/v1/events");
stream.addEventListener("changes", (event) => {
  const step = JSON.parse(event.data).header?.step;
  if (step !== undefined) window.arrived[step] ??= Date.now();
});
new MutationObserver(() => {
  const step = Number(document.title.split(" ").at(-3).replaceAll(",", ""));
  window.drawn[step] ??= Date.now();
}).observe(document.querySelector("title"), { childList: true });
"""


@dataclass(slots=True)
class Served:
    """The invented run in an event loop of its own thread, as a coordinator would serve it."""

    peers: int
    steps: int
    url: str = ""
    base_bytes: int = 0
    loaded_bytes: int = 0
    begun: dict[int, float] = field(default_factory=dict)
    ready: threading.Event = field(default_factory=threading.Event)
    watched: threading.Event = field(default_factory=threading.Event)
    lags: list[float] = field(default_factory=list)
    busy_seconds: float = 0.0

    async def run(self) -> None:
        self.base_bytes = psutil.Process().memory_info().rss
        from swarmtrain.coordinator.web import Dashboard

        loop, invented, state = asyncio.get_running_loop(), Invented(self.peers), RunState()
        dashboard = Dashboard(lambda: Look(invented.run, state, loop.time()), dict)
        self.url = await dashboard.start("127.0.0.1:0")

        def take(entries: Iterator[Entry]) -> None:
            nonlocal state
            for entry in entries:
                state = apply(state, entry)
                dashboard.changed()

        take(invented.begin(loop.time()))
        take(invented.links(loop.time()))
        self.ready.set()
        await asyncio.to_thread(self.watched.wait)
        reader = asyncio.create_task(self._read())
        await asyncio.sleep(2.0)
        begin = time.process_time()
        for step in range(self.steps):
            news = [*invented.step(step, loop.time()), *invented.traces(step, loop.time())]
            self.begun[step + 1] = time.time()
            take(iter(news))
            await asyncio.sleep(1.0)
        self.busy_seconds = time.process_time() - begin
        self.loaded_bytes = psutil.Process().memory_info().rss
        reader.cancel()
        self.ready.clear()
        await asyncio.to_thread(self.watched.wait)
        await dashboard.close()

    async def _read(self) -> None:
        """A reader beside the browser, without its drawing."""
        port = int(self.url.rstrip("/").rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 25)
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        while line := await reader.readline():
            if line.startswith(b'data: {"now_seconds"') and b'"header"' in line:
                step = json.loads(line[6:])["header"]["step"]
                if step in self.begun:
                    self.lags.append(time.time() - self.begun[step])


def told(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    print(
        f"{name:<28} p50 {median(ordered):.3f} s  p95 {p95:.3f} s  most {ordered[-1]:.3f} s  n {len(ordered)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    served = Served(options.peers, options.steps)
    thread = threading.Thread(target=lambda: asyncio.run(served.run()))
    thread.start()
    served.ready.wait()
    if why_not():
        raise SystemExit(why_not())
    with browser(1440) as page:
        page.get(served.url)
        time.sleep(3)
        page.execute_script(WATCH)
        served.watched.set()
        while served.ready.is_set():
            time.sleep(0.5)
        arrived, drawn = page.execute_script("return [window.arrived, window.drawn]")
    served.watched.set()
    told("to a reader of the stream", served.lags)
    for name, times in (("to the page's script", arrived), ("to the changed page", drawn)):
        told(
            name,
            [t / 1000 - served.begun[int(s)] for s, t in times.items() if int(s) in served.begun],
        )
    print(f"memory {served.base_bytes / 2**20:.1f} -> {served.loaded_bytes / 2**20:.1f} MiB")
    print(
        f"processor {served.busy_seconds / options.steps:.3f} s a step of {options.peers} peers, inventing included"
    )
    thread.join()


if __name__ == "__main__":
    main()
