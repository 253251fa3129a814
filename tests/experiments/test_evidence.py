"""Reading journals: a long event that many peers noted alike is kept once, and means what its line says."""

import json

from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.events import Noted, SealAssigned
from swarmtrain.experiments.evidence import SHARED_CHARACTERS, Evidence
from swarmtrain.monitor.journal import journal_line

OWNERS = tuple((f"{number:032x}", ((number, "01"),)) for number in range(60))
SEAL = SealAssigned(0, 1, 1, 1, ((1,),), OWNERS, ())


def read(*lines: str) -> Evidence:
    evidence = Evidence()
    assert evidence.read(lines) == []
    return evidence


def test_what_many_peers_noted_alike_is_kept_once() -> None:
    first, second = read(*(journal_line(SEAL, 2.0, peer) for peer in "ab")).of("seal_assigned")
    assert first.event is second.event
    assert (first.peer, second.peer) == ("a", "b")


@given(st.text(max_size=40), st.integers(0, 2), st.floats(0, 1e6), st.text(max_size=9))
def test_every_line_means_what_it_says(detail: str, times: int, seconds: float, peer: str) -> None:
    for tail in ("", ',"peer":', '"},"peer":"x","time_seconds":1.0}'):
        event = Noted("a fact", detail + "x" * SHARED_CHARACTERS * times + tail)
        text = journal_line(event, seconds, peer)
        [line] = read(text).of("noted")
        entry = json.loads(text)
        assert (line.event, line.peer, line.seconds) == (
            entry["event"],
            entry["peer"],
            entry["time_seconds"],
        )


def test_a_long_line_that_is_no_entry_is_a_violation() -> None:
    text = journal_line(SEAL, 2.0, "a")
    for torn in (text[:-20], text[5:], text.replace('"peer"', '"pear"')):
        [violation] = Evidence().read([torn])
        assert violation.check == "JOURNAL"
