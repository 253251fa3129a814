"""Who hosts what, how fast every stage of a running swarm is, and what one change would make of it.

A replica adds one over the seconds that a microbatch takes through all its stages; the slowest stage sets the pace.
Among changes that gain about the same in that, regions and links decide (plan.nearness).
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from swarmtrain.core.types import EDGE_STAGE, PeerId
from swarmtrain.plan.nearness import Nearness

WAITING_SLACK_TASKS = 0.5
"""Differences in mean waiting tasks below this say nothing about where work piles up."""

SAME = 1e-9
"""Rates nearer to each other than this share of the pace are the same: sums round."""

EQUAL_GAIN = 0.9
"""A change that brings this share of the best one's gain, and costs no stage more than what is missing of it, is as
good: the self-tests of equal machines differ by as much."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a peer measured of its lane lately: the share of time it computed (0 to 1), and the mean number of tasks
    that waited."""

    busy_share: float
    waiting_tasks: float


@dataclass(frozen=True, slots=True)
class Host:
    """A member of the roster. `seconds_per_stage` is above 0 and covers forward and backward of one microbatch
    through a stage of cost 1; one that is not `free` (its owner chose its stages, or it conducts) stays where it
    is. `region` is empty where nobody stated it."""

    peer: PeerId
    stages: tuple[int, ...]
    capacity_stages: int
    seconds_per_stage: float
    free: bool = True
    edge_capable: bool = True
    load: Load | None = None
    region: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """A host as it would be, and why it rather than one that would gain about as much; empty where nothing spoke."""

    host: Host
    why: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one changed host would make of a layout: rates in microbatches per second, and replicas, by stage."""

    rates: list[float]
    replicas: list[int]

    @property
    def pace(self) -> float:
        return min(self.rates)

    @property
    def lonely(self) -> int:
        """Stages with one replica where another stage has three."""
        return self.replicas.count(1) if max(self.replicas) >= 3 else 0


class Layout:
    """The hosts of a swarm. `costs` are the work of each stage relative to a middle one; `near` knows these hosts."""

    def __init__(
        self, hosts: tuple[Host, ...], costs: tuple[float, ...], near: Nearness | None = None
    ) -> None:
        self.costs, self.near = costs, near
        self.hosts = {host.peer: host for host in sorted(hosts, key=lambda host: host.peer)}
        shares: list[list[float]] = [[] for _ in costs]
        for host in hosts:
            for stage in host.stages:
                shares[stage].append(self._rate(host))
        # Sums that do not depend on the order of hosts.
        self.now = Effect([math.fsum(share) for share in shares], [len(share) for share in shares])

    @property
    def pace(self) -> float:
        return self.now.pace

    @property
    def slowest(self) -> int:
        return self.now.rates.index(self.pace)

    @property
    def busy_share(self) -> float:
        """Of the slowest stage's busiest replica; 1 where nothing was measured."""
        hosts = [host for host in self.hosts.values() if self.slowest in host.stages]
        measured = [host.load.busy_share for host in hosts if host.load]
        return min(max(measured, default=1.0), 1.0) or 1.0

    def with_host(self, changed: Host) -> "Layout":
        """The layout after a change, for throughput alone."""
        return Layout(tuple({**self.hosts, changed.peer: changed}.values()), self.costs)

    def effect(self, changed: Host) -> Effect:
        """Of a host that takes other stages."""
        rates, replicas = self.now.rates.copy(), self.now.replicas.copy()
        before = self.hosts[changed.peer]
        for host, sign in ((before, -1), (changed, 1)):
            if host.stages:
                rate = self._rate(host)
                for stage in host.stages:
                    rates[stage] += sign * rate
                    replicas[stage] += sign
        return Effect(rates, replicas)

    def pace_without(self, peer: PeerId) -> float:
        """The pace while `peer` is between two stages and serves none."""
        return max(self.effect(replace(self.hosts[peer], stages=())).pace, 0.0)

    def taken(self, changed: Host) -> tuple[int, ...]:
        """The stages that `changed` does not host yet."""
        return tuple(s for s in changed.stages if s not in self.hosts[changed.peer].stages)

    def best_spread(self) -> Move | None:
        """The move that gives a lonely stage its second replica and leaves the run fastest."""
        if not self.now.lonely:
            return None
        lonely = {stage for stage, count in enumerate(self.now.replicas) if count == 1}
        ranked: list[tuple[float, int, PeerId, Host]] = []
        for option in self._options(lonely):
            dropped = set(self.hosts[option.peer].stages) - set(option.stages)
            effect = self.effect(option)
            is_safe = all(self.now.replicas[stage] >= 3 for stage in dropped)
            if is_safe and effect.lonely < self.now.lonely:
                ranked.append((-effect.pace, len(option.stages), option.peer, option))
        if not ranked:
            return None
        ranked.sort(key=lambda entry: entry[:3])
        least_pace, count = EQUAL_GAIN * -ranked[0][0], ranked[0][1]
        return self._preferred([e[3] for e in ranked if -e[0] >= least_pace and e[1] == count])

    def best_lift(self) -> Move | None:
        """The one change after which the slowest stages are fastest; among equals whoever is missed least."""
        now = self._order(self.now)
        ranked: list[tuple[list[int], float, PeerId, Host]] = []
        for option in self._options({self.slowest}):
            effect = self.effect(option)
            if 0 in effect.replicas or effect.lonely > self.now.lonely:
                continue
            order = self._order(effect)
            if order <= now or not self._leaves_less_waiting(option):
                continue
            busy_share = option.load.busy_share if option.load else 0.0
            ranked.append(([-rate for rate in order], busy_share, option.peer, option))
        if not ranked:
            return None
        ranked.sort(key=lambda entry: entry[:3])
        best = ranked[0][0]
        gain = next(-slow - rate for slow, rate in zip(best, now, strict=True) if -slow != rate)
        worst = [slow + (1 - EQUAL_GAIN) * gain for slow in best]
        equal = [entry[3] for entry in ranked if all(map(operator.le, entry[0], worst))]
        return self._preferred(equal)

    def _preferred(self, equal: list[Host]) -> Move:
        """Of changes that gain about the same, the best in other respects."""
        if self.near is None:
            return Move(equal[0])
        best, why = self.near.preferred([(host.peer, host.stages) for host in equal])
        return Move(equal[best], why)

    def _rate(self, host: Host) -> float:
        """Microbatches per second that each of its stages gets from it."""
        return 1 / (host.seconds_per_stage * sum(self.costs[stage] for stage in host.stages))

    def _order(self, effect: Effect) -> list[int]:
        """The stages' rates, slowest first, in units below which they are the same: larger is better."""
        unit = SAME * self.pace
        return sorted(round(rate / unit) for rate in effect.rates)

    def _options(self, wanted: set[int]) -> Iterator[Host]:
        """Free hosts that take one of the `wanted` stages, instead of one of theirs or besides, or that leave another
        stage for the sake of one they have. Hosts that cannot be told apart are tried once."""
        seen: set[tuple[object, ...]] = set()
        for host in self.hosts.values():
            alike = (host.stages, host.seconds_per_stage, host.capacity_stages, host.edge_capable)
            key = (*alike, host.load, self._place_of(host))
            if host.free and host.stages and key not in seen:
                seen.add(key)
                yield from (replace(host, stages=s) for s in _choices(host, wanted))

    def _place_of(self, host: Host) -> str:
        """What tells a host from others elsewhere: its links, or else its region; nothing where neither counts."""
        if self.near is None:
            return ""
        return host.region if self.near.lines is None else host.peer

    def _leaves_less_waiting(self, option: Host) -> bool:
        """Whether no more work waits where the host leaves than where it goes, as far as that was measured."""
        own, new = set(self.hosts[option.peer].stages), set(option.stages)
        left = [w for stage in own - new if (w := self._waiting[stage]) is not None]
        gains = [w for stage in (new - own or new) if (w := self._waiting[stage]) is not None]
        return not left or not gains or max(left) <= max(gains) + WAITING_SLACK_TASKS

    @cached_property
    def _waiting(self) -> list[float | None]:
        """Mean waiting tasks per replica of every stage, None where nobody measured."""
        found: list[list[float]] = [[] for _ in self.costs]
        for host in self.hosts.values():
            for stage in host.stages:
                if host.load:
                    found[stage].append(host.load.waiting_tasks)
        return [math.fsum(tasks) / len(tasks) if tasks else None for tasks in found]


def _choices(host: Host, wanted: set[int]) -> Iterator[tuple[int, ...]]:
    """The stages that `host` could have for the sake of one of `wanted`."""
    own = set(host.stages)
    for stage in sorted(wanted - own):
        if stage == EDGE_STAGE and not host.edge_capable:
            continue
        for left in host.stages:
            yield tuple(sorted(own - {left} | {stage}))
        if len(own) < host.capacity_stages:
            yield tuple(sorted(own | {stage}))
    if own & wanted and len(own) > 1:
        yield from (tuple(sorted(own - {left})) for left in host.stages if left not in wanted)
