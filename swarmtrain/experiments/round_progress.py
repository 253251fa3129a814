"""Whether the islands of a run got where no fault may keep them from: the end of the run, and of its rounds.

An island is safe when the plan cannot cost it the machines that it needs (`faults.survivable`, by island). Rounds
begin with the founders as their only voters (`outer.founders`, from island 0 on), so they must go on where a quorum of
these is safe, and a quorum of all islands with it. Pure: reads what a run left behind.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarmtrain.core.config import RunConfig
from swarmtrain.core.events import (
    PeerJoined,
    RoundChosen,
    RoundMerged,
    RunStopped,
    StepCommitted,
)
from swarmtrain.core.rounds import is_quorum
from swarmtrain.experiments.evidence import Evidence
from swarmtrain.experiments.faults import Fault
from swarmtrain.experiments.virtual import VirtualRun
from swarmtrain.outer.rounds import Rhythm

FIRST_ISLAND = 0

Place = tuple[int, int, int]
"""Island, stage, fragment."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the islands of a run came, and what stood in their way.

    `islands` says which machine is in which, `island_risks` why the plan may cost an island its machines (empty: it
    may not). `reached` is the round that each place came to; `counted` are those that any round counted. `late` began
    when others had ended: who comes as late as that finds nobody to have all its rounds with. Clocks of real machines
    differ too much to say so.
    """

    islands: Mapping[str, int]
    island_risks: Mapping[int, str]
    plan: Sequence[Fault]
    reached: Mapping[Place, int]
    counted: set[Place]
    late: frozenset[int] = frozenset()


def unfinished(run: VirtualRun) -> str:
    """Which safe island did not end the run, and why; empty when all did."""
    for island, risk in sorted(run.island_risks.items()):
        names = [name for name, its in run.islands.items() if its == island]
        ends = [run.outcomes[name] for name in names if name in run.outcomes]
        if not risk and not any(end.finished for end in ends):
            reasons = [end.reason for end in ends] or ["its machines still ran, or are gone"]
            return f"island {island} did not end the run: {reasons[0]}"
    return ""


def behind(config: RunConfig, evidence: Evidence, island_risks: Mapping[int, str]) -> str:
    """Which safe island did not come to the last step, as its journals say; empty when all did."""
    island_of, steps = _island_of(evidence), dict[int, int]()
    for line in evidence.of("step_committed"):
        island = island_of.get(line.peer, FIRST_ISLAND)
        next_step = line.event.get("next_step") or line.event["step"] + 1
        steps[island] = max(steps.get(island, 0), next_step)
    for island, risk in sorted(island_risks.items()):
        if not risk and steps.get(island, 0) < config.run.steps:
            return f"island {island} came to step {steps.get(island, 0)} of {config.run.steps}"
    return ""


def of_run(run: VirtualRun) -> Progress:
    reached, counted = _reached(run), _counted(run)
    return Progress(run.islands, run.island_risks, run.plan, reached, counted, _late(run))


def of_journals(
    evidence: Evidence,
    islands: Mapping[str, int],
    island_risks: Mapping[int, str],
    plan: Sequence[Fault],
) -> Progress:
    island_of, reached, counted = _island_of(evidence), dict[Place, int](), set[Place]()
    for line in evidence.of("round_merged"):
        event = line.event
        place = (island_of.get(line.peer, FIRST_ISLAND), event["stage"], event["fragment"])
        reached[place] = max(reached.get(place, 0), event["round"])
    for line in evidence.of("round_chosen"):
        event = line.event
        counted |= {(island, event["stage"], event["fragment"]) for island in event["islands"]}
    return Progress(islands, island_risks, plan, reached, counted)


def _island_of(evidence: Evidence) -> dict[str, int]:
    joined = (line.event for line in evidence.of("peer_joined"))
    return {event["peer"]: event.get("island", FIRST_ISLAND) for event in joined}


def missing_rounds(config: RunConfig, run: Progress) -> str:
    """Which fragment of a safe island did not come to the end of its rounds, or was never counted in one.

    Empty when all did, or need not.
    """
    risks = run.island_risks.items()
    safe = [island for island, risk in risks if not risk and island not in run.late]
    founders = range(config.outer.founders)
    if not is_quorum(safe, founders) or not is_quorum(safe, run.island_risks):
        return ""
    # What a fault slows down or damages may come too late, or spoilt, every time.
    hit = {run.islands[name] for fault in run.plan for name in fault.peers}
    outer, stages = config.outer, config.model.stages
    rhythm = Rhythm(
        config.run.steps, stages, outer.inner_steps, outer.fragments, outer.delay_steps, outer.staggered
    )  # fmt: skip
    places = itertools.product(sorted(safe), range(stages + 1), range(outer.fragments))
    for island, stage, fragment in places:
        due, came = rhythm.rounds(stage, fragment), run.reached.get((island, stage, fragment), 0)
        what = f"island {island}, stage {stage}, fragment {fragment}"
        if came < due:
            return f"{what}: {came} of {due} rounds were merged"
        if island not in hit and (island, stage, fragment) not in run.counted:
            return f"{what}: no round counted its contribution"
    return ""


def _reached(run: VirtualRun) -> dict[Place, int]:
    """The round that each (island, stage, fragment) came to."""
    island_of = {peer: e.island for _, peer, e in run.events if isinstance(e, PeerJoined)}
    found: dict[Place, int] = {}
    for _, peer, event in run.events:
        if isinstance(event, RoundMerged):
            place = (island_of[peer], event.stage, event.fragment)
            found[place] = max(found.get(place, 0), event.round)
    return found


def _late(run: VirtualRun) -> frozenset[int]:
    """The islands whose first step was decided after another one had ended the run."""
    island_of = {peer: e.island for _, peer, e in run.events if isinstance(e, PeerJoined)}
    steps = [(at, island_of[p]) for at, p, e in run.events if isinstance(e, StepCommitted)]
    ends = [at for at, _, e in run.events if isinstance(e, RunStopped) and e.finished]
    begun = {island: at for at, island in reversed(steps)}
    return frozenset(island for island, at in begun.items() if at > min(ends, default=at))


def _counted(run: VirtualRun) -> set[Place]:
    """Whose contributions any round counted, by (island, stage, fragment)."""
    return {
        (island, event.stage, event.fragment)
        for _, _, event in run.events
        if isinstance(event, RoundChosen)
        for island in event.islands
    }
