"""What a peer tells while it works: steps chosen without a word between peers, bounded, and fewer among many."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.compute.lane import Kind, Span, Task
from swarmtrain.core.events import StateApplied
from swarmtrain.core.live import StepTraced
from swarmtrain.core.types import PeerId
from swarmtrain.monitor.journal import journal_line
from swarmtrain.peer.vitals import (
    KEYS_FOLLOWED,
    SPANS_TOLD,
    StepSampler,
    stride,
    vitals_pause_seconds,
)


class Bench:
    """A sampler on a clock that the test moves."""

    def __init__(self, peers: int = 1) -> None:
        self.now, self.sent, self.seen = 100.0, [], 0
        self.sampler = StepSampler(PeerId("me"), self.sent.append, lambda: self.now)
        self.sampler.peers = lambda: peers
        self.observe = self.sampler.observe(self._then)

    def _then(self, span: Span) -> None:
        self.seen += 1

    def step(self, number: int, seconds: float, spans: int = 2) -> None:
        """Do `spans` tasks and apply step `number`."""
        for key in range(spans):
            task = Task(Kind.FORWARD, 1, key=key)
            self.observe(Span(task, self.now, self.now + seconds / 10))
        self.now += seconds
        self.sampler.heard(StateApplied(number, 1, 1, ()))

    sent: list[Any]


@given(st.floats(0.0005, 50.0), st.floats(0.5, 100.0))
def test_chosen_steps_are_far_enough_apart_and_of_similar_peers_the_same(step: float, pause: float):
    mine, slower = stride(step, pause), stride(1.1 * step, pause)
    assert mine * step >= pause and (mine == 1 or mine * step < 2 * pause)
    assert mine & (mine - 1) == 0 and mine % slower == 0
    assert stride(0.0, pause) == 1


def test_a_step_is_told_with_what_the_lane_did_since_the_one_before():
    bench = Bench()
    bench.step(0, 2.0)
    bench.step(1, 2.0, spans=3)
    (told,) = bench.sent
    assert (told.step, told.seconds, told.left_out) == (1, 2.0, 0)
    assert told.spans[0] == ("forward", 1, 0, 0, 200_000, "")
    assert len(told.spans) == 3 and bench.seen == 5, "the other observer sees everything"


def test_quick_steps_are_told_about_once_a_second():
    bench = Bench()
    for number in range(400):
        bench.step(number, 0.05)
    steps = [told.step for told in bench.sent]
    assert 20 / 2 <= len(steps) <= 20 + 6 and all(step % 16 == 0 for step in steps[4:])
    crowd = Bench(peers=1000)
    for number in range(4000):
        crowd.step(number, 0.05)
    assert len(crowd.sent) <= 200 * 16 / 1000 + 6
    assert vitals_pause_seconds(1000) > 30 > vitals_pause_seconds(5) == 2.0


def test_a_report_is_small_however_much_was_done():
    bench = Bench()
    bench.step(0, 2.0)
    for key in range(5000):
        task = Task(Kind.HOP, 2, key=key, to="ab" * 16)
        bench.observe(Span(task, bench.now, bench.now + 1.0))
    bench.step(1, 2.0, spans=1000)
    (told,) = bench.sent
    assert len(told.spans) == SPANS_TOLD
    assert told.left_out == 1000 + KEYS_FOLLOWED - SPANS_TOLD, "hops of other keys are not missed"
    assert told.spans[0][5] == "abababababab"
    assert isinstance(told, StepTraced) and len(journal_line(told, 1.0, "me")) < 12_000


def test_a_step_that_came_from_elsewhere_is_not_told():
    bench = Bench()
    bench.step(0, 2.0)
    bench.now += 1.0
    bench.sampler.heard(StateApplied(9, 0, 0, ()))
    assert bench.sent == []
    bench.step(10, 2.0)
    assert [told.step for told in bench.sent] == [10]
