"""No peer believes to know votes that were given while it was off its island's list; and what each safeguard does."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from swarmtrain.core.types import Member, Roster
from swarmtrain.outer.votes import Votes
from swarmtrain.steps import membership
from swarmtrain.steps.ballot import Candidate
from tests.steps.lists import explore
from tests.steps.test_exploration import GOOD, setting_of
from tests.steps.world import Kind, Verdict

Patch = pytest.MonkeyPatch
KINDS: tuple[Kind, ...] = (
    "partition", "freeze", "lose", "overlap", "crash", "partition", "freeze",
)  # fmt: skip


def run(first: int, end: int) -> tuple[dict[int, Verdict], Counter[str]]:
    verdicts, figures = dict[int, Verdict](), Counter[str]()
    for seed in range(first, end):
        setting = setting_of(seed, kinds=KINDS, faults=8, steps=4, replicas=3)
        verdicts[seed], found = explore(seed, setting)
        figures += found
    return verdicts, figures


def check(verdicts: dict[int, Verdict]) -> None:
    bad = {seed: verdict for seed, verdict in verdicts.items() if verdict.result not in GOOD}
    assert not bad, bad
    assert sum(verdict.result == "ok" for verdict in verdicts.values()) >= 0.95 * len(verdicts)


def test_nobody_believes_to_know_what_it_missed() -> None:
    verdicts, figures = run(0, 500)
    check(verdicts)
    # It is about something: peers were dropped and came back, and lists were acted on.
    assert figures["came back"] > 500 and figures["acted on"] > 5000


@pytest.mark.slow
@pytest.mark.parametrize("first", range(500, 10_500, 500))
def test_ten_thousand_runs(first: int) -> None:
    check(run(first, first + 500)[0])


# ---- each safeguard left out --------------------------------------------------------------------------------------


def any_list_is_acted_on(patch: Patch) -> None:
    """Votes are given under every list at once."""
    patch.setattr(Votes, "is_settled", True)


def rosters_do_not_say_who_was_out(patch: Patch) -> None:
    """Who comes back is in the roster as if it had never been out."""

    def with_newcomer(roster: Roster, newcomer: Member, term: int) -> Roster:
        return roster.with_member(newcomer)

    patch.setattr(membership, "with_newcomer", with_newcomer)


def conductors_do_not_ask_who_was_out(patch: Patch) -> None:
    """A new conductor goes by the roster of the last decision alone."""
    patch.setattr(Candidate, "following", lambda self, roster: roster)


def what_is_redone_was_not_decided(patch: Patch) -> None:
    """Those who cannot be reached are taken not to have gone on (R10)."""
    patch.setattr(Candidate, "_may_be_decided", lambda self: False)


def any_newer_list_confirms(patch: Patch) -> None:
    """A list counts as confirmed when a newer one is, of whatever conductor."""

    def confirm(self: Votes, version: int) -> None:
        if version >= self.version:
            self._needed = frozenset(self.peers)

    patch.setattr(Votes, "confirm", confirm)


def who_is_back_knows_who_can_vote(patch: Patch) -> None:
    """It takes its list for one that lacks nobody."""
    real = Votes.set_peers

    def set_peers(self: Votes, *rest: Any) -> None:
        real(self, *rest)
        self._needed = frozenset(self.peers) if self._needed is None else self._needed

    patch.setattr(Votes, "set_peers", set_peers)


HUNTS = [
    (any_list_is_acted_on, 0),
    (rosters_do_not_say_who_was_out, 0),
    (conductors_do_not_ask_who_was_out, 0),
    (what_is_redone_was_not_decided, 10_470),
    (any_newer_list_confirms, 440),
    (who_is_back_knows_who_can_vote, 980),
]


@pytest.mark.parametrize(("mutant", "first"), HUNTS, ids=[hunt[0].__name__ for hunt in HUNTS])
def test_a_missing_safeguard_is_noticed(
    mutant: Callable[[Patch], None], first: int, monkeypatch: Patch
) -> None:
    check(run(first, first + 25)[0])
    mutant(monkeypatch)
    verdicts, _ = run(first, first + 25)
    assert "missed" in {verdict.result for verdict in verdicts.values()}
