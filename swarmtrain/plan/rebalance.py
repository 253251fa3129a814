"""Whether a peer of a running swarm should host other stages, and which: the conductor's pure decision.

The model is SWARM's adaptive rebalancing (arXiv 2301.11913, section 3.2): the stage that is behind gets a peer from
where it hurts least. Other than there, the decision

  - looks ahead: moves are planned until nothing improves, and the first one is made if the whole plan pays. With
    replicas 4 4 2 2 no single move makes the slowest stage faster; two do;
  - counts the price: the mover's download, during which its old stage lacks it, and the step that waits for it,
    against what the plan gains over a horizon;
  - keeps every stage replicated: never a gap, never one replica where another stage has three;
  - is slow to act: nothing moves while somebody moves, nor soon after, nor before two looks agree
    on a small gain.

Throughput is modelled as in `assign`: a replica adds one over the seconds that a microbatch takes through all its
stages, and the slowest stage sets the pace. What peers measured corrects the model: a slowest stage whose lanes
stand still part of the time gains only on the rest (Amdahl), and nobody leaves a stage where more work waits than
where it would go. Of moves that gain about the same, the one is made that leaves fewest stages to one region's outage,
and then the one with the shortest links (plan.nearness); whether anybody moves does not depend on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from swarmtrain.core.types import PeerId
from swarmtrain.plan.layout import Host, Layout, Move
from swarmtrain.plan.nearness import Lines, Nearness

MOST_PLANNED = 8
"""Moves a plan looks ahead; a swarm that needs more goes on planning after the first of them."""


@dataclass(frozen=True, slots=True)
class View:
    """What the conductor knows. For each stage 0..S, `costs` is its work relative to a middle stage's, and
    `transfer_seconds` how long its state takes to download at the measured rate. `since_move_seconds` is None when
    nobody has moved; `moving` is who is between two stages now, listed with those it goes to. `wanted_before` is
    what the look before this one wanted (`Decision.wanted`); None asks for no agreement. `lines` are what peers
    measured of their links."""

    hosts: tuple[Host, ...]
    costs: tuple[float, ...]
    transfer_seconds: tuple[float, ...]
    step_seconds: float
    since_move_seconds: float | None = None
    moving: PeerId | None = None
    wanted_before: tuple[int, ...] | None = None
    lines: Lines | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """When a move is worth it: `least_gain` is the least pace after over pace before, `horizon_seconds` the time
    over which a gain counts against the price, `rest_seconds` the least time between two moves. From `clear_gain`
    on one look is enough: what trembles in the figures does not reach it."""

    least_gain: float = 1.03
    clear_gain: float = 1.15
    horizon_seconds: float = 900.0
    rest_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Decision:
    """`peer` hosts `stages` from now on; nobody moves when it is None. `reason` says why, in words; `wanted` are the
    stages somebody would take if nothing spoke against moving now, `clear` whether one look is enough."""

    peer: PeerId | None
    stages: tuple[int, ...]
    reason: str
    wanted: tuple[int, ...] = ()
    clear: bool = False


def rebalance(view: View, policy: Policy) -> Decision:
    """Who moves where, if anybody. Equal views give equal decisions."""
    wish = _wish(Layout(view.hosts, view.costs), view, policy)
    if wish.peer is None:
        return wish
    if obstacle := _obstacle(view, policy, wish):
        return Decision(None, (), obstacle, wish.stages)
    near = _near(view)
    if near is None:
        return wish
    nearer = _wish(Layout(view.hosts, view.costs, near), view, policy)
    return wish if nearer.peer is None else nearer


def _near(view: View) -> Nearness | None:
    """Where the hosts stand, if regions or links say anything."""
    regions = {host.peer: host.region for host in view.hosts}
    if view.lines is None and len({*regions.values()} - {""}) < 2:
        return None
    near = Nearness(len(view.costs) - 1, regions, view.lines)
    for host in view.hosts:
        near.place(host.peer, host.stages)
    return near


def _wish(layout: Layout, view: View, policy: Policy) -> Decision:
    """The move to make if nothing spoke against moving now."""
    replicas = layout.now.replicas
    if 0 in replicas:
        gap = replicas.index(0)
        return _stay(f"stage {gap} has no replica: its state has to be recovered first")
    spread = layout.best_spread()
    if spread is None:
        return _best_plan(layout, view, policy)
    mover, most = spread.host, max(replicas)
    lonely = next(stage for stage in mover.stages if replicas[stage] == 1)
    reason = f"stage {lonely} has one replica where stage {replicas.index(most)} has {most}"
    return Decision(mover.peer, mover.stages, reason + _why_it(spread), mover.stages, True)


def _stay(reason: str) -> Decision:
    return Decision(None, (), reason)


def _obstacle(view: View, policy: Policy, wish: Decision) -> str:
    since = view.since_move_seconds
    if view.moving is not None:
        return f"{view.moving} is moving, and one moves at a time"
    if since is not None and since < policy.rest_seconds:
        return f"the last move was {since:.0f} s ago; {policy.rest_seconds:.0f} s lie between two"
    if not wish.clear and view.wanted_before not in (None, wish.wanted):
        return "the look before this one did not want the same"
    return ""


def _why_it(move: Move) -> str:
    return f"; this peer moves because {move.why}" if move.why else ""


def _plan(layout: Layout) -> Iterator[tuple[Layout, Move]]:
    """Moves that each make the sorted stage rates better (slowest first), and the layout before each."""
    for _ in range(MOST_PLANNED):
        move = layout.best_lift()
        if move is None:
            return
        yield layout, move
        layout = layout.with_host(move.host)


def _best_plan(layout: Layout, view: View, policy: Policy) -> Decision:
    """The first move of the shortest plan that gains most, if it pays."""
    pace, busy_share = layout.pace, layout.busy_share
    lost_seconds = waited_seconds = 0.0
    first: Move | None = None
    best, best_net_seconds = _stay("no move makes the slowest stage faster"), 0.0
    for number, (before, move) in enumerate(_plan(layout), start=1):
        first = first or move
        waits = sum(view.transfer_seconds[stage] for stage in before.taken(move.host))
        without = before.pace_without(move.host.peer)
        lost_seconds += waits * (1 - without / before.pace) + view.step_seconds
        waited_seconds += waits
        # No replica more shortens the time in which the slowest stage does not compute.
        gain = 1 / (1 - busy_share + busy_share * pace / before.effect(move.host).pace)
        net_seconds = max(policy.horizon_seconds - waited_seconds, 0.0) * (gain - 1) - lost_seconds
        if gain >= policy.least_gain and net_seconds > best_net_seconds:
            best_net_seconds = net_seconds
            reason = _why(layout, number, gain, lost_seconds, net_seconds) + _why_it(first)
            mover, is_clear = first.host, gain >= policy.clear_gain
            best = Decision(mover.peer, mover.stages, reason, mover.stages, is_clear)
        elif best.peer is None and gain > 1:
            best = _stay(
                f"the gain of {100 * (gain - 1):.1f} % by {number} moves is below "
                f"{100 * (policy.least_gain - 1):.0f} % or does not pay the {lost_seconds:.3g} s they cost"
            )
    return best


def _why(layout: Layout, moves: int, gain: float, lost: float, net: float) -> str:
    first = "this move makes" if moves == 1 else f"the first of {moves} moves that make"
    return (
        f"stage {layout.slowest} is the slowest with {layout.now.replicas[layout.slowest]} replicas; "
        f"{first} the run "
        f"{100 * (gain - 1):.1f} % faster, costs {lost:.3g} s and gains {net:.3g} s beyond that"
    )
