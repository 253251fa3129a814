"""Other costs by which plans are judged beside their own: the same instance a little off.

The order of tasks hangs on which of two round trips is longer and on what has arrived when a peer becomes idle. Ways
through the same peers in another order are equally long, so the last bit of a sum may decide, and a program that adds
up otherwise finds another makespan for the same plan. And costs that were measured never hold exactly.
"""

from collections.abc import Callable
from dataclasses import replace

from swarmtrain.plan.paths.instance import Chance, Instance

UNTIED = 1e-10
"""Share by which costs stray so that nothing is equal by chance; far more than sums round, far less than counts."""

UNTIED_WAYS = 8

GRID_PARTS = 2.0**32
"""Costs in whole such parts of a second add up exactly, so that what is equal stays equal in every order."""


def other_sums(instance: Instance, chance: Chance) -> list[Instance]:
    """As programs that add up in other orders may see it: all that is equal equal, and ties broken either way."""
    exact = _changed(instance, lambda seconds: round(seconds * GRID_PARTS) / GRID_PARTS)
    return [exact, *(shaken(instance, chance, UNTIED) for _ in range(UNTIED_WAYS))]


def shaken(instance: Instance, chance: Chance, share: float) -> Instance:
    """The same with all costs off by up to `share` of them, each in its own way."""
    return _changed(instance, lambda seconds: seconds * (1 + share * (2 * chance.random() - 1)))


def _changed(instance: Instance, change: Callable[[float], float]) -> Instance:
    peers = tuple(
        replace(
            peer,
            forward_seconds=change(peer.forward_seconds),
            backward_seconds=change(peer.backward_seconds),
            loss_seconds=change(peer.loss_seconds),
        )
        for peer in instance.peers
    )
    sends = tuple(tuple(map(change, row)) for row in instance.send_seconds)
    return replace(instance, peers=peers, send_seconds=sends)
