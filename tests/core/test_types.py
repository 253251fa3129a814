"""Rosters and majorities."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.types import Member, PeerId, Roster, is_majority


def _roster(*stages: tuple[int, ...], version: int = 1) -> Roster:
    """Peers "a", "b", ... with these stages."""
    return Roster.of(
        version,
        (Member(PeerId(chr(97 + index)), held, f"{index}:1") for index, held in enumerate(stages)),
    )


def _peers(letters: str) -> list[PeerId]:
    return [PeerId(letter) for letter in letters]


@st.composite
def rosters(draw: st.DrawFn) -> Roster:
    held = draw(st.lists(st.sets(st.integers(0, 3)).map(sorted).map(tuple), min_size=1, max_size=8))
    return _roster(*held)


def test_members_ascend_whatever_order_they_come_in() -> None:
    members = _roster((0,), (1,), (2,)).members
    assert Roster.of(1, reversed(members)) == Roster.of(1, members)
    assert Roster.of(1, reversed(members)).peers == ("a", "b", "c")


def test_lookups() -> None:
    roster = _roster((0, 1), (1,), (0,))
    assert roster.edges == ("a", "c")
    assert roster.replicas(1) == ("a", "b")
    assert roster.replicas(9) == ()
    member = roster.member(PeerId("b"))
    assert member is not None and member.stages == (1,)
    assert roster.member(PeerId("z")) is None
    assert "a" in roster
    assert "z" not in roster


def test_without_removes_one_peer_and_is_a_new_version() -> None:
    smaller = _roster((0,), (1,), (2,), version=4).without(PeerId("b"))
    assert smaller.peers == ("a", "c")
    assert smaller.version == 5


@pytest.mark.parametrize(
    ("stages", "missing"), [(2, ()), (3, (3,)), (5, (3, 4, 5))], ids=["none", "last", "several"]
)
def test_missing_stages(stages: int, missing: tuple[int, ...]) -> None:
    assert _roster((0,), (1, 2)).missing_stages(stages) == missing


def test_missing_edge_is_seen() -> None:
    assert _roster((1,)).missing_stages(1) == (0,)


@pytest.mark.parametrize(
    ("present", "outcome"),
    [("", False), ("a", True), ("b", False), ("ab", True)],
)
def test_two_peers_can_lose_the_one_without_the_second_vote(present: str, outcome: bool) -> None:
    assert is_majority(_peers(present), _roster((0,), (1,))) is outcome


@pytest.mark.parametrize(
    ("present", "outcome"),
    [("a", False), ("ab", True), ("bc", True), ("c", False)],
)
def test_odd_rosters_need_more_than_half(present: str, outcome: bool) -> None:
    assert is_majority(_peers(present), _roster((0,), (1,), (2,))) is outcome


@pytest.mark.parametrize(
    ("present", "outcome"),
    [("bc", True), ("ad", False), ("cd", False), ("acd", True)],
)
def test_the_lowest_edge_breaks_an_even_split(present: str, outcome: bool) -> None:
    # Peer b is the lowest edge here; a is lower but no edge.
    assert is_majority(_peers(present), _roster((1,), (0,), (0,), (2,))) is outcome


def test_strangers_and_repeats_have_no_vote() -> None:
    roster = _roster((0,), (1,), (2,))
    assert not is_majority(_peers("xyzuvw"), roster)
    assert not is_majority(_peers("aaaa"), roster)


@given(rosters(), st.data())
def test_two_disjoint_groups_are_never_both_a_majority(roster: Roster, data: st.DataObject) -> None:
    group = data.draw(st.sets(st.sampled_from(roster.peers)))
    rest = set(roster.peers) - group
    assert not (is_majority(group, roster) and is_majority(rest, roster))


@given(rosters(), st.data())
def test_one_side_of_a_split_goes_on_where_an_edge_can_break_the_tie(
    roster: Roster, data: st.DataObject
) -> None:
    group = data.draw(st.sets(st.sampled_from(roster.peers)))
    rest = set(roster.peers) - group
    if len(roster.peers) % 2 or roster.edges:
        assert is_majority(group, roster) or is_majority(rest, roster)


@given(rosters(), st.data())
def test_more_peers_never_lose_a_majority(roster: Roster, data: st.DataObject) -> None:
    group = data.draw(st.sets(st.sampled_from(roster.peers)))
    more = group | data.draw(st.sets(st.sampled_from(roster.peers)))
    if is_majority(group, roster):
        assert is_majority(more, roster)


def test_an_iterator_votes_like_a_list() -> None:
    assert is_majority(iter(_peers("ab")), _roster((0,), (1,), (2,)))
