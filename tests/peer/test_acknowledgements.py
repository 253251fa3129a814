"""Each committed step is told once by who conducts, and a new conductor tells the one before first."""

from swarmtrain.core.closing import Closing, Scalars
from swarmtrain.core.messages import Commit, StageDigest
from swarmtrain.core.types import Roster
from swarmtrain.peer.acknowledgements import Acknowledgements

DIGESTS = (StageDigest(0, b"0" * 32),)


def commit(step: int) -> Commit:
    closing = Closing(Scalars(0.1, 0.1, 0.2), step + 1)
    return Commit(1, step, 1, b"", Roster.of(1, []), (), closing, 8, 1.0 + step, b"")


def told(
    acknowledging: Acknowledgements, step: int, now_seconds: float
) -> list[tuple[int, float, bool]]:
    events = acknowledging.acknowledged(commit(step), DIGESTS, now_seconds)
    assert all(event.loss == 1.0 + event.step for event in events)
    return [(event.step, event.seconds, event.parameters_sha256 != "") for event in events]


def test_a_conductor_tells_each_step_once() -> None:
    acknowledging = Acknowledgements(10.0)
    for step in range(3):
        acknowledging.applied(commit(step), 11.0 + step)
        assert told(acknowledging, step, 11.5 + step) == [(step, 1.5 if not step else 1.0, True)]


def test_a_new_conductor_tells_what_its_predecessor_may_have_taken_along() -> None:
    acknowledging = Acknowledgements(0.0)
    for step in range(6):
        acknowledging.applied(commit(step), 10.0 + step)
    # It has applied step 5 and acknowledges it; step 4 nobody may have heard of. Time counts from step 3.
    assert told(acknowledging, 5, 15.5) == [(4, 1.0, False), (5, 1.5, True)]
    acknowledging.applied(commit(6), 16.0)
    assert told(acknowledging, 6, 16.5) == [(6, 1.0, True)]


def test_after_a_restore_nothing_of_the_old_history_is_told() -> None:
    acknowledging = Acknowledgements(0.0)
    for step in range(3):
        acknowledging.applied(commit(step), 1.0 + step)
    acknowledging.restored()
    acknowledging.applied(commit(1), 5.0)
    assert [step for step, _, _ in told(acknowledging, 1, 5.5)] == [1]
