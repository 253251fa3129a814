"""Who sent how much to whom, from what peers wrote of their links; both worlds give the same picture."""

from collections import Counter
from collections.abc import Iterable, Mapping

from swarmtrain.core.carried import CarriedRow
from swarmtrain.experiments.evidence import Line

Pair = tuple[str, str]
"""Sender and receiver."""


def sent_bytes(told: Iterable[tuple[str, Iterable[CarriedRow]]]) -> dict[Pair, int]:
    """Bytes by sender and receiver, of `(peer, its rows)`.

    What one side sent the other received but for what was under way at its end, so one word is enough: a killed peer
    says nothing. A peer that ran twice tells twice.
    """
    by_sender, by_receiver = Counter[Pair](), Counter[Pair]()
    for peer, rows in told:
        for other, to_bytes, from_bytes in rows:
            by_sender[peer, other] += to_bytes
            by_receiver[other, peer] += from_bytes
    pairs = sorted({*by_sender, *by_receiver})
    return {pair: max(by_sender[pair], by_receiver[pair]) for pair in pairs}


def told_in(lines: Iterable[Line]) -> list[tuple[str, list[CarriedRow]]]:
    """What `LinksCarried` in journals says."""
    return [(line.event["peer"], [tuple(row) for row in line.event["links"]]) for line in lines]


def by_regions(pairs: Mapping[Pair, int], regions: Mapping[str, str]) -> dict[str, int]:
    """Bytes carried from region to region, as `"Iowa > Oregon"`, between names that have one."""
    total: dict[str, int] = {}
    for (sender, receiver), carried_bytes in sorted(pairs.items()):
        ends = [regions.get(name, "") for name in (sender, receiver)]
        if all(ends):
            pair = " > ".join(ends)
            total[pair] = total.get(pair, 0) + carried_bytes
    return total
