"""Who holds snapshots of what: spread so that one loss, of a region or of a whole stage, does not take them all."""

from swarmtrain.core.types import Member, PeerId, Roster
from swarmtrain.plan.holders import snapshot_holders


def roster_of(*places: tuple[str, int], regions: str = "") -> Roster:
    return Roster.of(
        1,
        [
            Member(PeerId(name), (stage,), "", regions[index : index + 1])
            for index, (name, stage) in enumerate(places)
        ],
    )


def test_losing_a_whole_stage_takes_not_all_holders_of_another():
    """Sweep, seed 10532: both replicas of stage 1 died, and with them all snapshots of stage 0."""
    roster = roster_of(("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2), ("f", 2))
    stages_of = {member.peer: member.stages for member in roster.members}
    for stage, holders in snapshot_holders(roster, 2, 2).items():
        hosted = {stages_of[peer] for peer in holders}
        assert len(holders) == len(hosted) == 2 and (stage,) not in hosted


def test_with_one_other_stage_both_holders_are_on_it():
    roster = roster_of(("a", 0), ("b", 1), ("c", 1))
    assert snapshot_holders(roster, 1, 2) == {0: ("b", "c"), 1: ("a",)}


def test_another_region_comes_first():
    roster = roster_of(("a", 0), ("b", 1), ("c", 1), ("d", 2), regions="xxyx")
    assert snapshot_holders(roster, 2, 1)[0] == ("c",)
