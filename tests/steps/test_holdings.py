"""One owner per item, missing runs, and who drives them (R2, R6)."""

from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.messages import Hint, unpack_items
from swarmtrain.core.types import Item, Member, PeerId, Roster
from swarmtrain.steps.holdings import (
    Run,
    audit,
    driver_of,
    hints_for,
    missing_runs,
    ownerships,
)

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")
items = st.tuples(st.integers(0, 5), st.integers(0, 7))
holdings = st.dictionaries(
    st.sampled_from([A, B, C]), st.frozensets(items, max_size=30), min_size=1, max_size=3
)
needed_items = st.sets(items, max_size=40).map(sorted)
NOTHING: dict[PeerId, frozenset[Item]] = {}


@given(needed_items, holdings, holdings)
def test_every_needed_item_is_owned_by_one_holder_or_missing_or_void(
    needed: list[Item],
    held: dict[PeerId, frozenset[Item]],
    void: dict[PeerId, frozenset[Item]],
) -> None:
    found = audit(needed, held, void)
    void_keys = {key for reported in void.values() for _, key in reported}
    assert set(found.void) == void_keys
    for item in needed:
        holders = [peer for peer in held if item in held[peer]]
        if item[1] in void_keys:
            assert item not in found.owners and item not in found.missing
        elif holders:
            assert found.owners[item] in holders and item not in found.missing
        else:
            assert item in found.missing and item not in found.owners
    assert set(found.owners) | set(found.missing) <= set(needed)


@given(needed_items, holdings, st.randoms(use_true_random=False))
def test_any_conductor_finds_the_same_owners(
    needed: list[Item], held: dict[PeerId, frozenset[Item]], chance: object
) -> None:
    peers = list(held)
    chance.shuffle(peers)  # type: ignore[attr-defined]
    assert audit(needed, {peer: held[peer] for peer in peers}, NOTHING) == audit(
        needed, held, NOTHING
    )


def test_one_void_item_voids_its_key_at_every_position() -> None:
    held = {A: frozenset({(0, 0), (0, 1)}), B: frozenset({(1, 1)})}
    found = audit([(0, 0), (0, 1), (1, 0), (1, 1)], held, {B: frozenset({(1, 0)})})
    assert found.void == (0,)
    assert found.owners == {(0, 1): A, (1, 1): B}
    assert found.missing == ()


@given(st.sets(items, max_size=40))
def test_runs_are_maximal_and_cover_exactly_what_is_missing(missing: set[Item]) -> None:
    runs = missing_runs(missing)
    covered = [(position, run.key) for run in runs for position in range(run.first, run.last + 1)]
    assert sorted(covered) == sorted(missing)
    assert len(covered) == len(set(covered))
    for run in runs:
        assert (run.first - 1, run.key) not in missing
        assert (run.last + 1, run.key) not in missing


def test_adjacent_dead_owners_make_one_run() -> None:
    """Owners of neighbouring positions both dead: the holder above drives through both (R6)."""
    assert missing_runs([(2, 0), (3, 0), (1, 1), (4, 0), (0, 2)]) == (
        Run(0, 2, 4),
        Run(1, 1, 1),
        Run(2, 0, 0),
    )


def test_the_holder_above_drives_a_run_and_the_lowest_edge_a_whole_key() -> None:
    roster = Roster.of(1, [Member(B, (0,), ""), Member(A, (1,), ""), Member(C, (0,), "")])
    owners = {(1, 4): A, (0, 4): C}
    assert driver_of(Run(4, 2, 3), owners, roster) == A
    assert driver_of(Run(4, 1, 3), owners, roster) == C
    assert driver_of(Run(4, 0, 3), {}, roster) == B


def test_hints_name_the_holders_of_that_key_alone() -> None:
    owners = {(3, 1): B, (0, 1): A, (1, 2): C}
    assert hints_for(1, owners) == (Hint(0, A), Hint(3, B))


@given(st.dictionaries(items, st.sampled_from([A, B, C]), max_size=40))
def test_ownerships_lose_nothing(owners: dict[Item, PeerId]) -> None:
    grouped = ownerships(owners)
    assert {item: share.peer for share in grouped for item in unpack_items(share.items)} == owners
    assert [share.peer for share in grouped] == sorted(set(owners.values()))
