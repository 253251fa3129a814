"""Real processes made like profiles: what holds becomes arguments that `peer` takes, what cannot is refused."""

from pathlib import Path

import pytest
from typer.main import get_command

from swarmtrain.cli.app import app
from swarmtrain.core.errors import ConfigError
from swarmtrain.core.units import parse_bytes_per_second
from swarmtrain.experiments.emulated import emulated, staged
from swarmtrain.experiments.profiles import read_network
from swarmtrain.peer.staging import StagedMachine
from swarmtrain.swarm.identity import Identity
from swarmtrain.transport.shaping import Shape

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
        assert peer.towards == (Shape(1e9 / 8, 0.015),) * 3
        assert told["--region"] == "home"
        assert "own speed" in peer.says, "what does not take effect is said"


def test_a_machine_alone_keeps_its_own_line_and_no_shape() -> None:
    (laptop,) = emulated(("laptop",), None, 1, ROOT)
    assert not laptop.towards and "--upload-limit" in laptop.arguments


def test_a_network_alone_leaves_memory_to_the_machine() -> None:
    (peer,) = emulated((), "lan", 1, ROOT)
    assert peer.memory_bytes is None and "--upload-limit" not in peer.arguments


@pytest.mark.parametrize("name", PROFILES)
def test_peer_takes_what_every_shipped_machine_becomes(name: str, tmp_path: Path) -> None:
    (made,) = staged(emulated((name,), "home", 1, ROOT), tmp_path)
    peer = get_command(app).commands["peer"]  # type: ignore[attr-defined]
    peer.make_context("peer", ["--join", "127.0.0.1:1", *made.arguments])


def test_lines_between_regions_are_those_of_the_network(tmp_path: Path) -> None:
    """Six peers in five regions: what each process reads of its lines is what the table says of both ends."""
    made = staged(emulated((), "gcp5", 6, ROOT), tmp_path)
    told = [dict(zip(peer.arguments[::2], peer.arguments[1::2], strict=True)) for peer in made]
    regions = ["Iowa", "Oregon", "Belgium", "Japan", "Singapore", "Iowa"]
    assert [each["--region"] for each in told] == regions
    peers = [Identity.load_or_create(Path(each["--identity"])).peer_id for each in told]
    lines = [StagedMachine(Path(each["--staged-by"])).lines for each in told]
    network = read_network("gcp5", ROOT)
    for me, (here, mine) in enumerate(zip(regions, lines, strict=True)):
        for other, (there, peer) in enumerate(zip(regions, peers, strict=True)):
            row, column = network.place(here), network.place(there)
            latency_seconds = network.one_way_latency_seconds[row][column]
            shape = Shape(network.bytes_per_second[row][column], latency_seconds)
            assert mine.towards(peer) == (None if me == other else shape)
    assert "1.00ms to 102ms" in made[0].says and "region Iowa" in made[0].says


def test_who_starts_again_in_the_same_folder_is_the_same_peer(tmp_path: Path) -> None:
    first = staged(emulated((), "lan", 2, ROOT), tmp_path)
    keys = [path.read_text() for path in sorted((tmp_path / "keys").iterdir())]
    assert staged(emulated((), "lan", 2, ROOT), tmp_path) == first
    assert keys == [path.read_text() for path in sorted((tmp_path / "keys").iterdir())]


def test_a_machine_where_the_network_has_no_lines_is_refused(tmp_path: Path) -> None:
    laptop = (ROOT / "peers" / "machines" / "laptop.toml").read_text()
    (tmp_path / "far.toml").write_text(laptop + '\nregion = "Mars"\n')
    (tmp_path / "peers").mkdir()
    (tmp_path / "lan.toml").write_text((ROOT / "peers" / "networks" / "lan.toml").read_text())
    with pytest.raises(ConfigError, match="stands in Mars") as error:
        emulated(("far.toml",), "lan.toml", 2, tmp_path)
    assert "room" in error.value.why and error.value.remedy


def test_an_unknown_machine_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="laptop"):
        emulated(("toaster",), None, 2, ROOT)
