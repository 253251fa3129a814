"""Rosters by name: the difference to a base leads to that roster or to an error, never to another one."""

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.errors import WireError
from swarmtrain.core.rosters import MOST_CHANGES, RosterName, name_of, rebuilt, shared
from swarmtrain.core.types import Member, PeerId, Roster

PEERS = st.sampled_from([PeerId(f"{number:02x}") for number in range(24)])
MEMBERS = st.builds(
    Member,
    PEERS,
    st.sets(st.integers(0, 3), max_size=2).map(lambda stages: tuple(sorted(stages))),
    st.sampled_from(["a:1", "b:2"]),
    st.sampled_from(["", "north"]),
)
ROSTERS = st.builds(
    Roster.of,
    st.integers(0, 9),
    st.lists(MEMBERS, max_size=20, unique_by=lambda member: member.peer),
)


def large(count: int, version: int = 1) -> Roster:
    return Roster.of(
        version, [Member(PeerId(f"{n:032x}"), (n % 9,), f"{n}:1") for n in range(count)]
    )


@settings(max_examples=300, deadline=None)
@given(ROSTERS, ROSTERS)
def test_a_name_and_its_base_come_to_the_roster(roster: Roster, base: Roster) -> None:
    name = name_of(roster, base)
    assert name.digest == roster.digest
    if name.base:
        assert rebuilt(name, base) == roster
    else:
        assert roster == base, "without a difference only where there is none"


@settings(max_examples=300, deadline=None)
@given(ROSTERS, ROSTERS, ROSTERS)
def test_another_base_is_an_error(roster: Roster, base: Roster, other: Roster) -> None:
    name = name_of(roster, base)
    if name.base and other != base:
        with pytest.raises(WireError, match="not what its name says"):
            rebuilt(name, other)


@settings(max_examples=300, deadline=None)
@given(ROSTERS, ROSTERS, MEMBERS, st.integers(0, 3))
def test_another_difference_is_an_error(
    roster: Roster, base: Roster, member: Member, way: int
) -> None:
    """What a member that stands on another roster would do is never guessed: this fails without the digest."""
    name = name_of(roster, base)
    if not name.base:
        return
    others = tuple(m for m in name.members if m.peer != member.peer)
    wrong = [
        replace(name, version=name.version + 1),
        replace(name, left=(*name.left, member.peer)),
        replace(name, members=(*others, member)),
        replace(name, members=name.members[1:]),
    ][way]
    try:
        found = rebuilt(wrong, base)
    except WireError:
        return
    assert found == roster, "it was no difference"


@pytest.mark.parametrize("field", [field.name for field in fields(Member)])
def test_the_digest_covers_every_field_of_a_member(field: str) -> None:
    member = Member(PeerId("a"), (1,), "a:1", "north")
    other = {"peer": PeerId("b"), "stages": (1, 2), "address": "a:2", "region": "south", "since": 7}
    changed = replace(member, **{field: other[field]})
    assert Roster.of(1, [member]).digest != Roster.of(1, [changed]).digest


def test_the_digest_covers_the_version() -> None:
    assert large(3).digest != large(3, version=2).digest
    assert large(3).digest == large(3).digest


def test_a_name_has_a_difference_only_where_that_is_short() -> None:
    """It goes out to everybody, whole rosters only to those who ask."""
    base = large(3 * MOST_CHANGES)
    for count in (MOST_CHANGES, MOST_CHANGES + 1):
        gone = frozenset(base.peers[:count])
        roster = Roster.of(2, [member for member in base.members if member.peer not in gone])
        assert bool(name_of(roster, base).base) == (count <= MOST_CHANGES)
    assert name_of(base, None) == RosterName(1, base.digest, b"", (), ())
    assert name_of(base, base) == name_of(base, None)


def test_a_difference_to_more_members_than_there_may_be_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, roster = large(5), large(6)
    monkeypatch.setattr("swarmtrain.core.rosters.MOST_MEMBERS", 5)
    with pytest.raises(WireError, match="6 members, 5 allowed"):
        rebuilt(name_of(roster, base), base)


def test_equal_rosters_are_kept_once() -> None:
    first, second = large(5), large(5)
    assert first is not second and shared(first) is shared(second)
