"""Peers that compute on a copy of their parameters, as on a device apart, train the same model.

The copy is kept on the CPU, so that any change of a stage that does not reach it shows as other bits.
"""

import pytest

from swarmtrain.compute.place import Place
from swarmtrain.compute.stage import StageCompute, build_compute
from swarmtrain.core.config import RunConfig
from swarmtrain.peer import runtime
from tests.compute.test_place import APART
from tests.experiments.island_worlds import config_of, islands_of, run_islands
from tests.experiments.runs import MIXED, known_reference, sha_of, small_config, virtual


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From here on all peers compute on copies; the stages that were built so."""
    built: list[int] = []

    def elsewhere(config: RunConfig, vocab_size: int, stage: int, _: Place) -> StageCompute:
        built.append(stage)
        return build_compute(config, vocab_size, stage, APART)

    monkeypatch.setattr(runtime, "build_compute", elsewhere)
    return built


def test_a_swarm_of_copies_is_the_plain_loop(copies: list[int]) -> None:
    config = small_config(steps=2)
    assert sha_of(virtual(config, MIXED)) == known_reference(config).parameters_sha256
    assert set(copies) == {0, 1, 2}


def test_islands_of_copies_take_outer_rounds_alike(request: pytest.FixtureRequest) -> None:
    config, peers = config_of(steps=8), islands_of(2)
    expected = sha_of(run_islands(config, peers))
    copies = request.getfixturevalue("copies")
    assert sha_of(run_islands(config, peers)) == expected and set(copies) == {0, 1, 2}
