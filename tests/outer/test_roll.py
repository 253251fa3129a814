"""Who is in a group: an island lives as long as one of its peers is there as a peer of it."""

from swarmtrain.core.types import PeerId
from swarmtrain.outer.roll import Roll

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


def test_an_island_whose_peers_are_in_another_by_now_does_not_live() -> None:
    """A dissolved island is lost peer by peer; one of them then hosts the same stage elsewhere."""
    roll = Roll()
    roll.hear(0, 3, (C,))
    roll.hear(1, 5, (A, B))
    assert roll.is_alive(0) and roll.is_alive(1)
    roll.lose(A)
    roll.lose(B)
    assert not roll.is_alive(1)
    roll.hear(0, 4, (A, C))
    roll.see(A)
    assert roll.is_alive(0) and not roll.is_alive(1)
    # What was said before is repeated, or comes late.
    roll.hear(1, 5, (A, B))
    assert not roll.is_alive(1)
    roll.see(B)
    assert roll.is_alive(1)
