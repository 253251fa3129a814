"""Random small networks for the planner's tests; seconds are eighths, so that all sums are exact."""

import random
from dataclasses import replace

from swarmtrain.core.errors import ConfigError
from swarmtrain.plan.paths.construct import deal_stages
from swarmtrain.plan.paths.instance import Instance, PeerCosts
from swarmtrain.plan.paths.reading import check


def peer(name: str, stages: tuple[int, ...] | None, slots: int = 2, **seconds: float) -> PeerCosts:
    costs = {"forward": 1.0, "backward": 2.0, "loss": 0.5, **seconds}
    return PeerCosts(name, stages, costs["forward"], costs["backward"], costs["loss"], slots)


def eighths(chance: random.Random, most: float) -> float:
    return chance.randint(1, int(most * 8)) / 8


def random_instance(seed: int, exact: bool = True) -> Instance:
    """A legal instance of 2 to 4 stages; every tenth peer serves two of them. Not `exact`: any float may come."""
    chance = random.Random(seed)
    draw = (
        (lambda most: eighths(chance, most)) if exact else (lambda most: chance.uniform(0.01, most))
    )
    while True:
        stages = chance.randint(2, 4)
        hosted = [(stage,) for stage in range(stages) for _ in range(chance.randint(1, 3))]
        hosted = [
            tuple(sorted({*own, chance.randrange(stages)})) if chance.random() < 0.1 else own
            for own in hosted
        ]
        count = len(hosted)
        instance = Instance(
            peers=tuple(
                PeerCosts(f"p{i}", own, draw(2), draw(4), draw(1), chance.randint(len(own), 3))
                for i, own in enumerate(hosted)
            ),
            send_seconds=tuple(
                tuple(0.0 if a == b else draw(3) for b in range(count)) for a in range(count)
            ),
            stages=stages,
            microbatches=chance.randint(1, 8),
            visits=chance.randint(2, stages),
            max_swaps=chance.randint(0, 2),
            max_jump=chance.randint(1, 4),
            task_gap_seconds=chance.choice((0.0, 0.125)),
            quotas=chance.choice(("equal", "free")),
            visit_shares=chance.choice(("equal", "free")),
            opening_seconds=tuple(draw(2) for _ in range(count)) if seed % 3 == 0 else (),
        )
        try:
            check(instance)
            deal_stages(instance)
        except ConfigError:
            continue
        return instance


def unplaced(instance: Instance) -> Instance:
    """The same with nobody placed, and sizes free."""
    peers = tuple(replace(own, stages=None) for own in instance.peers)
    return replace(instance, peers=peers, stage_sizes=None)


def joined_by(instance: Instance, newcomer: PeerCosts, send_seconds: float) -> Instance:
    """The same with one more peer, as far from everybody."""
    return replace(
        instance,
        peers=(*instance.peers, newcomer),
        send_seconds=(
            *((*row, send_seconds) for row in instance.send_seconds),
            (*(send_seconds for _ in instance.peers), 0.0),
        ),
        stage_sizes=None,
        opening_seconds=(*instance.opening_seconds, 0.0) if instance.opening_seconds else (),
    )


def pairs(slots: int) -> Instance:
    """Six peers in near pairs: a route of four peers has to leave its pair and come back."""
    return Instance(
        peers=tuple(peer(f"p{i}", None, slots) for i in range(6)),
        send_seconds=tuple(
            tuple(0.0 if a == b else 0.5 if a // 2 == b // 2 else 4.0 for b in range(6))
            for a in range(6)
        ),
        stages=4,
        microbatches=1,
        visits=4,
    )


def clusters(chance: random.Random) -> Instance:
    """Three near peers here, four there: a trip of five peers has to leave and come back."""
    count = 7
    return Instance(
        peers=tuple(peer(f"p{i}", None, forward=eighths(chance, 2)) for i in range(count)),
        send_seconds=tuple(
            tuple(
                0.0 if a == b else eighths(chance, 1) if (a < 3) == (b < 3) else 4.0
                for b in range(count)
            )
            for a in range(count)
        ),
        stages=5,
        microbatches=6,
        visits=5,
        quotas="free",
    )
