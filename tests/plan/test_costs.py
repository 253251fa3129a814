"""Costs from published figures: own measurements first, unsure ones drawn to the median, unknown pairs filled in."""

import pytest

from swarmtrain.core.types import PeerId
from swarmtrain.plan.costs import (
    SURE_CALLS,
    UNKNOWN_BYTES_PER_SECOND,
    UNKNOWN_ONE_WAY_SECONDS,
    LinkFigure,
    PeerFigures,
    costs_of,
)

A, B, C, D = map(PeerId, "abcd")
MIB = 1 << 20


def peer(name: PeerId, *links: LinkFigure) -> PeerFigures:
    return PeerFigures(name, 0.3, links=links)


def test_uplink_and_downlink_differ() -> None:
    costs = costs_of(
        [
            peer(A, LinkFigure(B, 0.01, 1e6, SURE_CALLS)),
            peer(B, LinkFigure(A, 0.02, 1e7, SURE_CALLS)),
        ]
    )
    assert costs.send_seconds(A, B, MIB) == pytest.approx(0.01 + MIB / 1e6)
    assert costs.send_seconds(B, A, MIB) == pytest.approx(0.02 + MIB / 1e7)
    assert costs.send_seconds(A, A, MIB) == 0


def test_a_pair_nobody_measured_is_like_the_way_back_or_like_the_median() -> None:
    costs = costs_of(
        [
            peer(A, LinkFigure(B, 0.01, 1e6, SURE_CALLS), LinkFigure(C, 0.03, 3e6, SURE_CALLS)),
            peer(D, LinkFigure(C, 0.02, 2e6, SURE_CALLS)),
        ]
    )
    assert costs.send_seconds(B, A, MIB) == costs.send_seconds(A, B, MIB)
    assert costs.send_seconds(B, D, MIB) == pytest.approx(0.02 + MIB / 2e6)
    assert costs_of([]).send_seconds(A, B, MIB) == pytest.approx(
        UNKNOWN_ONE_WAY_SECONDS + MIB / UNKNOWN_BYTES_PER_SECOND
    )


def test_a_figure_from_few_calls_is_drawn_to_the_median() -> None:
    def seconds(calls: int) -> float:
        sure = (LinkFigure(PeerId(f"x{n}"), 0.01, 1e7, SURE_CALLS) for n in range(2))
        costs = costs_of([peer(A, *sure, LinkFigure(B, 0.01, 1e5, calls))])
        return costs.send_seconds(A, B, MIB)

    few, more, sure = (seconds(calls) for calls in (0, SURE_CALLS // 2, SURE_CALLS))
    assert few == pytest.approx(0.01 + MIB / 1e7)
    assert few < more < sure == pytest.approx(0.01 + MIB / 1e5)


def test_a_link_without_a_rate_is_of_median_rate() -> None:
    costs = costs_of(
        [peer(A, LinkFigure(B, 0.01, 0.0, SURE_CALLS), LinkFigure(C, 0.5, 1e6, SURE_CALLS))]
    )
    assert costs.send_seconds(A, B, MIB) == pytest.approx(0.01 + MIB / 1e6)


def test_a_matrix_is_by_sender() -> None:
    costs = costs_of([peer(A, LinkFigure(B, 0.01, 1e6, SURE_CALLS))])
    assert costs.matrix([A, B], 0) == [[0.0, 0.01], [0.01, 0.0]]


def test_what_was_measured_under_work_counts_more_than_the_self_test() -> None:
    tested = PeerFigures(A, 0.3)
    assert (tested.forward_seconds, tested.backward_seconds) == pytest.approx((0.1, 0.2))
    assert tested.loss_seconds == 0.3
    working = PeerFigures(A, 0.3, 0.5, 0.7, 0.9)
    assert working.forward_seconds == 0.5 and working.backward_seconds == 0.7
    assert working.loss_seconds == 0.9
