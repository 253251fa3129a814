"""Wiring rules by name: pure functions of one's own, imported only on a local word, held to their contract."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.config import load_config
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.events import Noted
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.virtual import Scenario, VirtualPeer, simulate
from swarmtrain.plan import wiring_rules
from swarmtrain.plan.wiring import Turn, Wiring
from swarmtrain.plan.wiring_rules import BUILT_IN, in_turn, trust_wiring, wiring_rule
from tests.experiments.runs import corpus, known_reference, sha_of, small_config

PEERS = tuple(PeerId(name) for name in ("a", "b", "c"))


@pytest.fixture(autouse=True)
def _untrusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring_rules, "_rules", dict(BUILT_IN))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "my_wiring_rules.py"
    path.write_text(
        "def last(turn, seconds):\n    return len(seconds) - 1\n\n"
        "def outside(turn, seconds):\n    return len(seconds)\n\nnumber = 3\n"
    )
    yield path


@given(st.integers(1, 5), st.integers(0, 40))
def test_in_turn_gives_everybody_the_same(count: int, rounds: int) -> None:
    seconds = tuple(range(1, count + 1))
    dealt = Counter(in_turn(turn, seconds) for turn in range(count * rounds))
    assert all(dealt[place] == rounds for place in range(count))


def test_a_rule_hears_what_replicas_said_and_chooses() -> None:
    heard: list[tuple[int, tuple[float, ...]]] = []

    def rule(turn: int, seconds: tuple[float, ...]) -> int:
        heard.append((turn, seconds))
        return 2

    wiring = Wiring(rule, "mine")
    wiring.answered(1, PEERS[1], 0.25, 10.0)
    assert wiring.choose(1, PEERS, Turn(4, 6), 1, 11.0) == PEERS[2]
    assert heard == [(5, (0.0, 0.25, 0.0))]  # the second round of turns is rotated by the position
    wiring.choose(1, PEERS, Turn(0, 6), 1, 1000.0)
    assert heard[-1] == (0, (0.0, 0.0, 0.0)), "what was heard long ago is forgotten"


def test_a_rule_is_imported_on_a_local_word_only(module: Path) -> None:
    name = "my_wiring_rules:last"
    rule, reason = wiring_rule(name)
    assert rule is None and "not named by a local file" in reason
    trust_wiring(name)
    rule, reason = wiring_rule(name)
    assert rule is not None and rule(0, (0.0, 0.0)) == 1 and reason == ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module_here:rule", "ModuleNotFoundError"),
        ("my_wiring_rules:none", "AttributeError"),
        ("my_wiring_rules:number", "is no function"),
    ],
)
def test_what_is_no_rule_is_refused(module: Path, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        trust_wiring(name)


def test_a_rule_outside_of_its_contract_is_named(module: Path) -> None:
    trust_wiring("my_wiring_rules:outside")
    rule, _ = wiring_rule("my_wiring_rules:outside")
    with pytest.raises(ConfigError, match="answered 3"):
        Wiring(rule, "my_wiring_rules:outside").choose(1, PEERS, Turn(0, 6), 1, 0.0)


def test_a_name_must_be_one(module: Path) -> None:
    for wrong in ("fastest", "os;system:x", "a:b:c", "a.b"):
        with pytest.raises(ConfigError, match=r"planner\.wiring"):
            load_config((), [f"planner.wiring={wrong}"])


FLEET = (
    VirtualPeer("edge", (0,)),
    VirtualPeer("fast", (1, 2)),
    VirtualPeer("slow", (1, 2), slowness=10.0),
)


def test_rules_change_seconds_and_no_number(module: Path) -> None:
    """By speed beats in turn; a rule that a configuration from elsewhere names is not run, and that is told."""
    seconds, names = {}, ("swarm", "in_turn", "my_wiring_rules:last")
    config = small_config("limits.hedge=false")
    for name in names:
        own = small_config("limits.hedge=false", f"planner.wiring={name}")
        assert own.hash == config.hash
        run = simulate(own, Scenario(FLEET), corpus())
        assert sha_of(run) == known_reference(config).parameters_sha256
        seconds[name] = run.seconds
        told = [e for _, _, e in run.events if isinstance(e, Noted) and e.what == "wiring"]
        assert bool(told) == (name == names[2])
    assert seconds["swarm"] < 0.6 * seconds["in_turn"]
    assert seconds[names[2]] == seconds["swarm"]
