"""What peers published, in the terms of the planner and of placement."""

from collections.abc import Iterable, Mapping, Sequence

from swarmtrain.core.config import RunConfig
from swarmtrain.core.sections import CODEC_BYTES_PER_VALUE
from swarmtrain.core.types import PeerId
from swarmtrain.plan.costs import LinkFigure, PeerFigures, costs_of
from swarmtrain.plan.nearness import Lines
from swarmtrain.swarm.records import LINK_PEER_DIGITS, PeerRecord


def boundary_bytes(config: RunConfig) -> int:
    """What one microbatch is between two stages."""
    values = config.train.tokens_per_microbatch * config.model.width
    return int(values * CODEC_BYTES_PER_VALUE[config.wire.codec])


def by_digits(peers: Iterable[PeerId]) -> dict[str, PeerId]:
    """Peers by what a link's row calls them; the lowest of two with the same first digits."""
    return {peer[:LINK_PEER_DIGITS]: peer for peer in sorted(peers, reverse=True)}


def figures_of(entry: PeerRecord, peers: Mapping[str, PeerId]) -> PeerFigures:
    """One record's figures, with the links to `peers` (`by_digits`)."""
    forward_seconds, backward_seconds, loss_seconds = entry.task_seconds
    links = tuple(
        LinkFigure(peers[digits], one_way_seconds, rate, calls)
        for digits, one_way_seconds, rate, calls in entry.links
        if digits in peers
    )
    return PeerFigures(
        entry.peer,
        entry.seconds_per_stage,
        forward_seconds,
        backward_seconds,
        loss_seconds,
        links,
    )


def lines_of(config: RunConfig, records: Sequence[PeerRecord]) -> Lines | None:
    """The links between the peers of `records`, None while nobody has measured one."""
    peers = by_digits(entry.peer for entry in records)
    costs = costs_of(figures_of(entry, peers) for entry in records if entry.links)
    return Lines(costs, boundary_bytes(config)) if costs.links else None
