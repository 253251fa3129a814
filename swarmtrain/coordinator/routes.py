"""Which peers a microbatch visited, put together from what each of them did: its lane's tasks and its hops. Pure.

Peers count time from when they had applied the step before, each by its own clock, so times of two peers are not
compared: a hop says who was called next, and only what one peer did is put in order by time.
"""

from collections.abc import Iterable, Mapping, Sequence

from swarmtrain.core.live import SpanRow

FORWARDS = ("forward", "loss")

Visit = tuple[int, str]
"""Stage and peer."""


def routes_of(
    spans: Mapping[str, Sequence[SpanRow]], keys: Iterable[int]
) -> dict[int, list[Visit]]:
    """By key, the visits from embedding to loss as far as they are known; keys nobody was seen to start are left out.

    Raises nothing for rows that make no sense together: such a route ends early.
    """
    found = {}
    for key in keys:
        route = _route(spans, key)
        if route:
            found[key] = route
    return found


def _route(spans: Mapping[str, Sequence[SpanRow]], key: int) -> list[Visit]:
    """Follow the hops. What a peer did before its next hop needed none; a hop that was repeated counts once."""
    rows = {peer: [row for row in own if row[2] == key] for peer, own in spans.items()}
    for own in rows.values():
        own.sort(key=lambda row: row[3], reverse=True)
    peer = next((peer for peer, own in rows.items() if _began(own)), None)
    if peer is None:
        return []
    route: list[Visit] = []
    unseen: Visit | None = None
    while rows[peer]:
        what, stage, _, _, _, to = rows[peer].pop()
        if what in FORWARDS:
            if unseen is not None:
                break
            route.append((stage, peer))
        elif what == "hop" and to:
            called = next((known for known in rows if known.startswith(to)), to)
            is_seen = any(row[0] in FORWARDS and row[1] == stage for row in rows.get(called, ()))
            unseen = None if is_seen else (stage, called)
            peer = called if is_seen else peer
    return [*route, unseen] if unseen is not None else route


def is_whole(route: Sequence[Visit]) -> bool:
    """Whether the route is known up to the loss."""
    return len(route) > 1 and route[0][0] == route[-1][0] == 0


def _began(own: Sequence[SpanRow]) -> bool:
    """Whether this peer embedded the key: its first task was a forward of the edge. The first comes last here."""
    first = next((row for row in reversed(own) if row[0] in FORWARDS), None)
    return first is not None and first[:2] == ("forward", 0)
