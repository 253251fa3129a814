"""Small changes of a draft that keep it legal; which of them helps, who executes or prices the draft decides.

Chance may also propose what is not possible: then there is nothing to try.
"""

from swarmtrain.plan.paths.compiling import compiled
from swarmtrain.plan.paths.draft import below, count_all, drawn
from swarmtrain.plan.paths.freedom import (
    CHANGE_EDGE,
    RELEASE,
    REORDER,
    REPLACE_PEER,
    REPLACE_STAGE,
    SWAP_PLACES,
    TRADE_EDGES,
    TRADE_STAGES,
)

LATE = 0.4
"""Share of the proposals that change a microbatch of the edge peer that is through last."""

RELEASED_AT_ONCE = 0.5
"""Chance that a changed release is none."""

LATEST_RELEASE = 0.6
"""Releases are drawn from this share of the horizon."""

NEAR = 0.5
"""Chance that microbatches which trade stages trade their peers too."""


@compiled()
def is_legal(order, begin, end, max_swaps, max_jump):  # type: ignore[no-untyped-def]
    """`sequences.is_legal` of the stages between `begin`, the edge, and `end`, of which none comes twice."""
    frontier, swaps, is_open = 0, 0, False
    for at in range(begin + 1, end):
        stage = order[at]
        if stage > frontier:
            if stage - frontier > max_jump:
                return False
            is_open = stage - 1 > frontier
            frontier = stage
        else:
            swaps += 1
            if stage != frontier - 1 or not is_open or swaps > max_swaps:
                return False
            is_open = False
    return True


@compiled()
def place_of(order, begin, end, stage):  # type: ignore[no-untyped-def]
    """Where the stage is visited, -1 for nowhere."""
    for at in range(begin, end):
        if order[at] == stage:
            return at
    return -1


@compiled("always")
def host(draft, stage):  # type: ignore[no-untyped-def]
    """Any peer of the stage."""
    return draft.host_SH[stage * draft.peers + below(draft, draft.hosts_S[stage])]


@compiled("always")
def _draw(draft):  # type: ignore[no-untyped-def]
    """Any of the visits that may change, but often one of a microbatch of the late edge."""
    whose_N, peer_MV, late = draft.whose_N, draft.peer_MV, draft.late[0]
    visit = below(draft, len(whose_N))
    if late >= 0 and drawn(draft) < LATE:
        for _ in range(2 * draft.hosts_S[0]):
            if peer_MV[whose_N[visit] * draft.visits] == late:
                break
            visit = below(draft, len(whose_N))
    return visit


@compiled("always")
def _take(draft, trial, k, index):  # type: ignore[no-untyped-def]
    """The route of a microbatch into row `k` of the trial."""
    trial.who[k], trial.releases[k] = index, draft.release_M[index]
    visits, stages, peers = draft.visits, trial.stages, trial.peers
    stage_MV, peer_MV = draft.stage_MV, draft.peer_MV
    for at in range(visits):
        stages[k * visits + at] = stage_MV[index * visits + at]
        peers[k * visits + at] = peer_MV[index * visits + at]


@compiled()
def propose(draft, trial):  # type: ignore[no-untyped-def]
    """Put routes to try into the trial; returns how many, 0 for none, or minus the kind of a move of peers, which is
    for `relocate`."""
    chance, kind = drawn(draft), 0
    while chance >= draft.chance_K[kind]:
        kind += 1
    if kind >= SWAP_PLACES:
        return -kind
    visits = draft.visits
    visit = _draw(draft)
    _take(draft, trial, 0, draft.whose_N[visit])
    at = draft.place_N[visit]
    if kind == RELEASE:
        return _release(draft, trial)
    if kind == REORDER:
        return _reorder(draft, trial, at)
    if kind in (REPLACE_PEER, CHANGE_EDGE, REPLACE_STAGE):
        return _change_one(draft, trial, at, kind)
    _take(draft, trial, 1, draft.whose_N[below(draft, len(draft.whose_N))])
    if trial.who[0] == trial.who[1]:
        return 0
    if kind == TRADE_STAGES:
        return _trade_stages(draft, trial)
    # Two microbatches trade edges, or the replicas of a stage that both visit.
    at = 0 if kind == TRADE_EDGES else at
    other = place_of(trial.stages, visits, 2 * visits, trial.stages[at])
    if other < 0 or trial.peers[at] == trial.peers[other]:
        return 0
    trial.peers[at], trial.peers[other] = trial.peers[other], trial.peers[at]
    return 2


@compiled("always")
def _release(draft, trial):  # type: ignore[no-untyped-def]
    released = 0.0
    if drawn(draft) >= RELEASED_AT_ONCE:
        # Whole milliseconds: a plan is read by people too.
        seconds = drawn(draft) * LATEST_RELEASE * draft.horizon_seconds
        released = int(seconds * 1000) / 1000
    is_new, trial.releases[0] = released != trial.releases[0], released
    return 1 if is_new else 0


@compiled("always")
def _reorder(draft, trial, at):  # type: ignore[no-untyped-def]
    """Two visits that follow each other change places."""
    if at + 1 == draft.visits:
        return 0
    for row in (trial.stages, trial.peers):
        row[at], row[at + 1] = row[at + 1], row[at]
    legal = is_legal(trial.stages, 0, draft.visits, draft.max_swaps, draft.max_jump)
    return 1 if legal else 0


@compiled("always")
def _change_one(draft, trial, at, kind):  # type: ignore[no-untyped-def]
    """Another replica for a visit, another edge (where quotas allow), or another stage (where shares allow)."""
    if kind == REPLACE_STAGE:
        gone, come = trial.stages[at], 1 + below(draft, len(draft.least_S) - 1)
        if (
            draft.visits_S[gone] <= draft.least_S[gone]
            or draft.visits_S[come] >= draft.most_S[come]
            or not _replace(draft, trial, 0, at, come, host(draft, come))
        ):
            return 0
        return 1
    at = 0 if kind == CHANGE_EDGE else at
    before, after = trial.peers[at], host(draft, trial.stages[at])
    trial.peers[at] = after
    if at == 0 and (
        draft.quota_P[after] >= draft.most_quota or draft.quota_P[before] <= draft.least_quota
    ):
        return 0
    return 1 if before != after else 0


@compiled("always")
def _trade_stages(draft, trial):  # type: ignore[no-untyped-def]
    """One microbatch visits a stage in the other's place, and the other way round."""
    visits = draft.visits
    at = _only_own(draft, trial, 0)
    other = _only_own(draft, trial, 1)
    if at < 0 or other < 0:
        return 0
    gone, come = trial.stages[at], trial.stages[visits + other]
    first, second = trial.peers[at], trial.peers[visits + other]
    if drawn(draft) >= NEAR:
        first, second = host(draft, gone), host(draft, come)
    if not _replace(draft, trial, 0, at, come, second):
        return 0
    return 2 if _replace(draft, trial, 1, other, gone, first) else 0


@compiled("always")
def _only_own(draft, trial, k):  # type: ignore[no-untyped-def]
    """A place in row `k` whose stage the other row does not visit and which may go; -1 where there is none."""
    visits = draft.visits
    start, other = below(draft, visits - 1), (1 - k) * visits
    for turn in range(visits - 1):
        at = 1 + (start + turn) % (visits - 1)
        stage = trial.stages[k * visits + at]
        if (
            not draft.is_protected_S[stage]
            and place_of(trial.stages, other, other + visits, stage) < 0
        ):
            return at
    return -1


@compiled("always")
def _replace(draft, trial, k, at, come, peer):  # type: ignore[no-untyped-def]
    """Stage `come` at `peer` instead of the visit at `at`, in its place or in order; whether that is legal."""
    begin, end = k * draft.visits, (k + 1) * draft.visits
    stages, peers = trial.stages, trial.peers
    if draft.is_protected_S[stages[begin + at]] or place_of(stages, begin, end, come) >= 0:
        return False
    stages[begin + at], peers[begin + at] = come, peer
    if is_legal(stages, begin, end, draft.max_swaps, draft.max_jump):
        return True
    for row in range(begin + 2, end):
        spot = row
        while stages[spot - 1] > stages[spot]:
            stages[spot - 1], stages[spot] = stages[spot], stages[spot - 1]
            peers[spot - 1], peers[spot] = peers[spot], peers[spot - 1]
            spot -= 1
    return is_legal(stages, begin, end, draft.max_swaps, draft.max_jump)


@compiled()
def relocate(draft, kind):  # type: ignore[no-untyped-def]
    """Exchange two peers' places, or move one and share out its visits; whether that was possible."""
    one = draft.movable[below(draft, len(draft.movable))]
    first = _stage_of(draft, one)
    if kind == SWAP_PLACES:
        other = draft.movable[below(draft, len(draft.movable))]
        second = _stage_of(draft, other)
        if first == second:
            return False
        _trade_places(draft, one, other, first, second)
    else:
        second = below(draft, len(draft.hosts_S))
        if first == second or draft.hosts_S[first] < 2:
            return False
        if draft.least_quota > 0 and 0 in (first, second):
            return False  # every quota would change
        _move_peer(draft, one, first, second)
    count_all(draft)
    return True


@compiled()
def _stage_of(draft, peer):  # type: ignore[no-untyped-def]
    for stage in range(len(draft.hosts_S)):
        for at in range(draft.hosts_S[stage]):
            if draft.host_SH[stage * draft.peers + at] == peer:
                return stage
    return -1


@compiled()
def _trade_places(draft, one, other, first, second):  # type: ignore[no-untyped-def]
    for stage, gone, come in ((first, one, other), (second, other, one)):
        for at in range(stage * draft.peers, stage * draft.peers + draft.hosts_S[stage]):
            if draft.host_SH[at] == gone:
                draft.host_SH[at] = come
                break
    for at in range(len(draft.peer_MV)):
        if draft.peer_MV[at] in (one, other):
            draft.peer_MV[at] = one + other - draft.peer_MV[at]


@compiled()
def _move_peer(draft, peer, left, taken):  # type: ignore[no-untyped-def]
    count = draft.hosts_S[left] - 1
    for at in range(left * draft.peers, left * draft.peers + count):
        if draft.host_SH[at] == peer:
            draft.host_SH[at] = draft.host_SH[left * draft.peers + count]
    draft.hosts_S[left] = count
    draft.host_SH[taken * draft.peers + draft.hosts_S[taken]] = peer
    draft.hosts_S[taken] += 1
    for at in range(len(draft.peer_MV)):
        if draft.peer_MV[at] == peer:
            draft.peer_MV[at] = host(draft, left)
        elif draft.stage_MV[at] == taken and drawn(draft) * draft.hosts_S[taken] < 1.0:
            draft.peer_MV[at] = peer
