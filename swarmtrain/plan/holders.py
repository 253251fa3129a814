"""Which peers hold the snapshots of which stages: a pure function of the roster, so everybody knows without asking."""

from swarmtrain.core.types import PeerId, Roster


def snapshot_holders(roster: Roster, stages: int, count: int) -> dict[int, tuple[PeerId, ...]]:
    """For each of the stages 0..`stages`, up to `count` peers that do not host it.

    Peers of regions where the stage has no replica come first, so that one outage does not take both (GEMINI's group
    placement, reliability_security.md 2); then those on stages of which no peer holds this one yet, so that losing all
    of another stage does not; then those that hold least, then the lowest.
    """
    load = dict.fromkeys(roster.peers, 0)
    holders: dict[int, tuple[PeerId, ...]] = {}
    for stage in range(stages + 1):
        near = {m.region for m in roster.members if stage in m.stages and m.region}
        others = [member for member in roster.members if stage not in member.stages]
        chosen: list[PeerId] = []
        covered: set[int] = set()
        while others and len(chosen) < count:
            best = min(
                others,
                key=lambda m: (
                    m.region in near,
                    not covered.isdisjoint(m.stages),
                    load[m.peer],
                    m.peer,
                ),
            )
            others.remove(best)
            chosen.append(best.peer)
            covered.update(best.stages)
        holders[stage] = tuple(chosen)
        for peer in holders[stage]:
            load[peer] += 1
    return holders
