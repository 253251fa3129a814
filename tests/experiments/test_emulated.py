"""Real processes made like profiles: what holds becomes arguments that `peer` takes, what cannot is refused."""

from pathlib import Path

import pytest
from typer.main import get_command

from swarmtrain.cli.app import app
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.units import parse_bytes_per_second
from swarmtrain.experiments.emulated import emulated
from swarmtrain.transport.shaping import parse_shape

ROOT = Path(__file__).parents[2]
PROFILES = [path.stem for path in sorted((ROOT / "peers" / "machines").glob("*.toml"))]


def test_nothing_asked_for_changes_nothing() -> None:
    assert emulated((), None, 4, ROOT) == ()


def test_machines_are_dealt_in_turn_and_the_narrower_access_line_holds() -> None:
    laptop, a100, again = emulated(("laptop", "a100"), "home", 3, ROOT)
    assert again == laptop != a100
    assert (laptop.memory_bytes, a100.memory_bytes) == (8 << 30, 38 << 30)
    for peer in (laptop, a100):
        told = dict(zip(peer.arguments[::2], peer.arguments[1::2], strict=True))
        assert parse_bytes_per_second(told["--upload-limit"]) == 20e6 / 8
        assert parse_bytes_per_second(told["--download-limit"]) == 100e6 / 8
        shape = parse_shape(told["--shape"])
        assert (shape.bytes_per_second, shape.latency_seconds) == (1e9 / 8, 0.015)
        assert told["--region"] == "home"
        assert "own speed" in peer.says, "what does not take effect is said"


def test_a_machine_alone_keeps_its_own_line_and_no_shape() -> None:
    (laptop,) = emulated(("laptop",), None, 1, ROOT)
    assert "--shape" not in laptop.arguments and "--upload-limit" in laptop.arguments


def test_a_network_alone_leaves_memory_to_the_machine() -> None:
    (peer,) = emulated((), "lan", 1, ROOT)
    assert peer.memory_bytes is None and "--upload-limit" not in peer.arguments


@pytest.mark.parametrize("name", PROFILES)
def test_peer_takes_what_every_shipped_machine_becomes(name: str) -> None:
    (made,) = emulated((name,), "home", 1, ROOT)
    peer = get_command(app).commands["peer"]  # type: ignore[attr-defined]
    peer.make_context("peer", ["--join", "127.0.0.1:1", *made.arguments])


def test_lines_that_differ_from_pair_to_pair_are_refused() -> None:
    with pytest.raises(ConfigError, match="gcp5 has 5 regions") as error:
        emulated((), "gcp5", 2, ROOT)
    assert "simulate" in error.value.remedy


def test_an_unknown_machine_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="laptop"):
        emulated(("toaster",), None, 2, ROOT)
