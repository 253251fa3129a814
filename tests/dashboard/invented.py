"""A run that nobody trains: the events that peers would send, from a seed, for as many peers as one likes.

Run as a program it shows such a run in real time: `python -m tests.dashboard.invented --peers 1000`.
"""

import argparse
import asyncio
import json
import math
import random
from collections.abc import Iterator
from typing import Any

from swarmtrain.coordinator.picture import Look, Run
from swarmtrain.coordinator.state import RunState, apply
from swarmtrain.coordinator.web import Dashboard
from swarmtrain.core import events
from swarmtrain.core.live import StepTraced, Vitals

Entry = dict[str, Any]
REGIONS = ("Belgium", "Iowa", "Japan", "London", "Oregon", "Singapore")
KEYS = 8


class Invented:
    """`peers` peers over `stages` middle stages, six regions, steps of `step_seconds`."""

    def __init__(
        self, peers: int, stages: int = 4, step_seconds: float = 1.0, seed: int = 1
    ) -> None:
        self.stages, self.step_seconds = stages, step_seconds
        self.chance = random.Random(seed)
        self.ids = [f"{self.chance.getrandbits(128):032x}" for _ in range(peers)]
        self.hosts = {peer: index % (stages + 1) for index, peer in enumerate(self.ids)}
        self.sent = dict.fromkeys(self.ids, 0)
        self.gone: list[str] = []
        self.run = Run("invented", "ab" * 32, 10_000, stages, KEYS, 4096, 0, "127.0.0.1:8765")

    def entry(self, event: events.Event, peer: str, at: float) -> Entry:
        """As it comes from a journal."""
        value = {"event": event.to_json(), "peer": peer, "time_seconds": at}
        return dict(json.loads(json.dumps(value)))

    def begin(self, at: float = 0.0) -> Iterator[Entry]:
        """Everybody joins."""
        for index, peer in enumerate(self.ids):
            yield from self.join(peer, index, at)
        yield self.entry(events.TermStarted(self.ids[0], 1, 0, "lowest edge"), self.ids[0], at)

    def join(self, peer: str, index: int, at: float) -> Iterator[Entry]:
        region = REGIONS[index % 7 % len(REGIONS)]
        address, machine = f"10.0.{index // 250}.{index % 250}:4001", "torch 2.13.0 x86_64 cpu"
        joined = events.PeerJoined(peer, f"volunteer-{index + 1}", address, (), 0, region, machine)
        yield self.entry(joined, peer, at)
        placed = events.Placed(peer, (self.hosts[peer],), "the slowest stage gains most this way")
        yield self.entry(placed, peer, at)

    def step(self, step: int, at: float) -> Iterator[Entry]:
        """What comes in while one step is made."""
        leader, alive = self.ids[0], [peer for peer in self.ids if peer not in self.gone]
        shares = tuple((peer, 1 + self.hosts[peer] % 3) for peer in alive)
        yield self.entry(events.Sealed(step, 1, shares, ()), leader, at)
        loss = 2.0 + 3.6 * math.exp(-step / 60) + self.chance.gauss(0, 0.04)
        seconds = self.step_seconds * self.chance.uniform(0.9, 1.1)
        done = events.StepCommitted(step, loss, 4096, seconds, 1e-3, 1.0, (), "sha")
        yield self.entry(done, leader, at)
        # As often as peer.vitals would: every two seconds among few, every half minute among a thousand.
        every = max(1, round(len(self.ids) / 32 / self.step_seconds))
        for peer in alive[step % every :: every]:
            self.sent[peer] += self.chance.randint(2 << 20, 6 << 20)
            share = self.chance.uniform(0.2, 0.9)
            sent_bytes, was_dialled = self.sent[peer], int(peer, 16) % 2 == 0
            vitals = Vitals(peer, sent_bytes, sent_bytes, share, 600 << 20, was_dialled)
            yield self.entry(vitals, peer, at)

    def links(self, at: float) -> Iterator[Entry]:
        for peer in self.ids:
            others = self.chance.sample(self.ids, min(len(self.ids) - 1, 12))
            rows = tuple(
                (other[:12], self.chance.uniform(0.002, 0.12), self.chance.uniform(1e6, 3e8), 40)
                for other in others
                if other != peer
            )
            yield self.entry(events.LinksMeasured(peer, rows), peer, at)

    def traces(self, step: int, at: float, skip: int | None = None) -> Iterator[Entry]:
        """The step in detail; its routes leave out stage `skip`."""
        spans: dict[str, list[tuple[str, int, int, int, int, str]]] = {}
        tick = int(1e6 * self.step_seconds / (3 * KEYS))
        alive = [peer for peer in self.ids if peer not in self.gone]
        for key in range(KEYS):
            hosts = [[p for p in alive if self.hosts[p] == s] for s in range(self.stages + 1)]
            visited = [0, *(s for s in range(1, self.stages + 1) if s != skip and hosts[s]), 0]
            edge = hosts[0][key % len(hosts[0])]
            path = [(s, edge if s == 0 else hosts[s][key % len(hosts[s])]) for s in visited]
            for place, (stage, peer) in enumerate(path):
                begin = key * tick + place * tick // 2
                last = place == len(path) - 1
                own = spans.setdefault(peer, [])
                own.append(("loss" if last else "forward", stage, key, begin, tick // 3, ""))
                if not last:
                    to_stage, to = path[place + 1]
                    own.append(("hop", to_stage, key, begin + tick // 3, 4 * tick, to[:12]))
                    back = (2 * KEYS + key) * tick - place * tick // 2
                    own.append(("backward", stage, key, back, tick // 2, ""))
        for peer, rows in spans.items():
            event = StepTraced(peer, step, self.step_seconds, tuple(rows), 0)
            yield self.entry(event, peer, at)

    def hostile(self, text: str, at: float) -> Iterator[Entry]:
        """A peer whose every word is `text`."""
        evil = "e" * 32
        yield self.entry(events.PeerJoined(evil, text, text, (1, 2), 0, text, text), evil, at)
        yield self.entry(events.Placed(evil, (1, 2), text), evil, at)
        yield self.entry(events.Noted(text, text), evil, at)

    def churn(self, step: int, at: float) -> Iterator[Entry]:
        """Somebody is lost, somebody else comes back."""
        leader = self.ids[0]
        if self.gone and self.chance.random() < 0.5:
            peer = self.gone.pop(0)
            yield from self.join(peer, self.ids.index(peer), at)
            stage = self.hosts[peer]
            change = events.MembershipChanged(
                peer, step, 2, f"joins from step {step} on with stages {stage}"
            )
            yield self.entry(change, leader, at)
        else:
            there = [peer for peer in self.ids[len(self.ids) // 2 :] if peer not in self.gone]
            if not there:
                return
            peer = self.chance.choice(there)
            self.gone.append(peer)
            yield self.entry(events.Lost(peer, "the other side hung up"), leader, at)


async def show(peers: int, address: str, steps: int, hostile: str) -> None:
    """Feed a dashboard in real time."""
    loop, invented = asyncio.get_running_loop(), Invented(peers)
    state = RunState()

    def take(entry: Entry) -> None:
        nonlocal state
        state = apply(state, entry)
        dashboard.changed()

    dashboard = Dashboard(lambda: Look(invented.run, state, loop.time()), dict)
    print(await dashboard.start(address), flush=True)
    for entry in (*invented.begin(loop.time()), *invented.links(loop.time())):
        take(entry)
    for entry in invented.hostile(hostile, loop.time()) if hostile else ():
        take(entry)
    for step in range(steps):
        for entry in (
            *invented.step(step, loop.time()),
            *invented.traces(step, loop.time(), 2 + step % 3),
        ):
            take(entry)
        if step % 7 == 6:
            for entry in invented.churn(step, loop.time()):
                take(entry)
        await asyncio.sleep(invented.step_seconds)
    await dashboard.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=20)
    parser.add_argument("--address", default="127.0.0.1:0")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--hostile", default="", help="what one peer calls itself")
    options = parser.parse_args()
    asyncio.run(show(options.peers, options.address, options.steps, options.hostile))
