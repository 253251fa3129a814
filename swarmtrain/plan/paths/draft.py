"""A plan while it is searched: routes and places in flat arrays, with what limits need to know counted along.

Array suffixes: M microbatches, V visits (0 the edge), S stages, P peers, H places for hosts of a stage, N visits that
may change, K kinds of moves. Of two letters the second runs fastest.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from swarmtrain.plan.paths.compiling import compiled, counts, figures
from swarmtrain.plan.paths.freedom import Freedom, chances
from swarmtrain.plan.paths.instance import Chance, Instance
from swarmtrain.plan.paths.routes import PlannedRoute

MOST_SEED = 2**31 - 1

STEP = 1 / MOST_SEED


class Draft(NamedTuple):
    """What is given: visits that may change, by microbatch and place on its route; `movable` peers;
    `chance_K` the chances of the moves so far and this one. And what changes."""

    visits: int
    peers: int
    max_swaps: int
    max_jump: int
    least_quota: int
    most_quota: int
    horizon_seconds: float
    least_S: Any
    most_S: Any
    is_protected_S: Any
    whose_N: Any
    place_N: Any
    movable: Any
    chance_K: Any

    stage_MV: Any
    peer_MV: Any
    release_M: Any
    host_SH: Any
    hosts_S: Any
    visits_S: Any
    quota_P: Any
    late: Any  # of one entry: the edge whose microbatches are changed more often, or -1
    seed: Any  # of one entry


class Trial(NamedTuple):
    """Other routes for up to two microbatches."""

    who: Any
    stages: Any
    peers: Any
    releases: Any


def draft_of(
    placed: Instance,
    routes: Sequence[PlannedRoute],
    freedom: Freedom,
    chance: Chance,
    horizon_seconds: float = 0.0,
) -> Draft:
    count, stages = len(placed.peers), placed.stages
    host_SH = [-1] * (stages * count)
    for stage, hosts in enumerate(placed.hosts):
        host_SH[stage * count : stage * count + len(hosts)] = hosts
    quota = placed.quota_limits(len(placed.hosts[0]))
    return Draft(
        visits=placed.visits,
        peers=count,
        max_swaps=placed.max_swaps,
        max_jump=placed.max_jump,
        least_quota=quota[0],
        most_quota=quota[1],
        horizon_seconds=horizon_seconds,
        least_S=counts(least for least, _ in placed.visit_limits),
        most_S=counts(most for _, most in placed.visit_limits),
        is_protected_S=counts(int(stage in placed.protected_stages) for stage in range(stages)),
        whose_N=counts(visit // placed.visits for visit in freedom.visits),
        place_N=counts(visit % placed.visits for visit in freedom.visits),
        movable=counts(freedom.moved),
        chance_K=figures(chances(placed, freedom)),
        stage_MV=counts(stage for route in routes for stage in route.stages),
        peer_MV=counts(peer for route in routes for peer in route.peers),
        release_M=figures(route.release_seconds for route in routes),
        host_SH=counts(host_SH),
        hosts_S=counts(len(hosts) for hosts in placed.hosts),
        visits_S=counts([0] * stages),
        quota_P=counts([0] * count),
        late=counts([-1]),
        seed=counts([1 + int(chance.random() * (MOST_SEED - 1))]),
    )


def same(draft: Draft) -> Draft:
    """A copy whose routes and places change apart."""
    changing = Draft._fields[Draft._fields.index("stage_MV") :]
    return draft._replace(**{name: getattr(draft, name).copy() for name in changing})


def trial_of(draft: Draft) -> Trial:
    rows = [0] * (2 * draft.visits)
    return Trial(counts((0, 0)), counts(rows), counts(rows), figures((0.0, 0.0)))


def placed_by(draft: Draft, free: Instance) -> Instance:
    """`free` with every peer at its place in the draft."""
    stages: list[list[int]] = [[] for _ in free.peers]
    for stage in range(free.stages):
        for at in range(draft.hosts_S[stage]):
            stages[draft.host_SH[stage * draft.peers + at]].append(stage)
    return free.placed(tuple(hosted) for hosted in stages)


def routes_of(draft: Draft) -> list[PlannedRoute]:
    stages, peers = map(int, draft.stage_MV), map(int, draft.peer_MV)
    size = range(draft.visits)
    return [
        PlannedRoute(
            tuple(next(stages) for _ in size), tuple(next(peers) for _ in size), float(release)
        )
        for release in draft.release_M
    ]


@compiled("always")
def drawn(draft):  # type: ignore[no-untyped-def]
    """The next number of a linear congruential generator, in [0, 1)."""
    # By Park and Miller; its products do not overflow, so that Python's integers and machine words agree.
    product = draft.seed[0] * 48271
    rest = (product & MOST_SEED) + (product >> 31)
    draft.seed[0] = rest if rest < MOST_SEED else rest - MOST_SEED
    return draft.seed[0] * STEP


@compiled("always")
def below(draft, count):  # type: ignore[no-untyped-def]
    return int(drawn(draft) * count)


@compiled("always")
def count(draft, index, sign):  # type: ignore[no-untyped-def]
    """Add (or with -1 take away) a microbatch's visits."""
    for at in range(index * draft.visits, (index + 1) * draft.visits):
        draft.visits_S[draft.stage_MV[at]] += sign
    draft.quota_P[draft.peer_MV[index * draft.visits]] += sign


@compiled()
def count_all(draft):  # type: ignore[no-untyped-def]
    for stage in range(len(draft.visits_S)):
        draft.visits_S[stage] = 0
    for peer in range(len(draft.quota_P)):
        draft.quota_P[peer] = 0
    for index in range(len(draft.release_M)):
        count(draft, index, 1)


@compiled("always")
def exchange(draft, trial, used):  # type: ignore[no-untyped-def]
    """Exchange the first `used` routes of the trial and those of the draft; done twice, all is as before."""
    for k in range(used):
        index = trial.who[k]
        count(draft, index, -1)
        for at in range(draft.visits):
            here, there = index * draft.visits + at, k * draft.visits + at
            stage, peer = draft.stage_MV[here], draft.peer_MV[here]
            draft.stage_MV[here], draft.peer_MV[here] = trial.stages[there], trial.peers[there]
            trial.stages[there], trial.peers[there] = stage, peer
        release = draft.release_M[index]
        draft.release_M[index], trial.releases[k] = trial.releases[k], release
        count(draft, index, 1)


@compiled()
def copy(draft, other):  # type: ignore[no-untyped-def]
    """Routes and places of a draft into another one, which is not counted."""
    for at in range(len(draft.peer_MV)):
        other.stage_MV[at], other.peer_MV[at] = draft.stage_MV[at], draft.peer_MV[at]
    for index in range(len(draft.release_M)):
        other.release_M[index] = draft.release_M[index]
    for at in range(len(draft.host_SH)):
        other.host_SH[at] = draft.host_SH[at]
    for stage in range(len(draft.hosts_S)):
        other.hosts_S[stage] = draft.hosts_S[stage]
