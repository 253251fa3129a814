"""What a volunteer's machine accepts from a run it joins, and what two processes must share (I4, I5)."""

from dataclasses import replace

import pytest

from swarmtrain.core.errors import ConfigError, CorpusError, Incompatible, ModelError, SwarmError
from swarmtrain.core.types import PeerId
from swarmtrain.peer.joining import accept_config, check_name, check_region, check_stages
from swarmtrain.peer.service import check_compatible
from swarmtrain.transport.link import PROTOCOL, Hello
from tests.experiments.runs import small_config

HELLO = Hello(PROTOCOL, "0.1", b"run" * 8, PeerId("a"), "corpus", "kernels", "", "peer")


def test_the_runs_own_configuration_is_taken():
    offered = small_config()
    assert accept_config(offered, None) is offered


def test_settings_that_are_each_machines_own_may_differ():
    own = small_config("limits.threads=2", "links.silence_seconds=9", "run.name=mine")
    assert accept_config(small_config(), own) is own


@pytest.mark.parametrize("setting", ["run.seed=8", "model.width=128", "data.source=text:/other"])
def test_a_configuration_of_another_run_is_refused(setting: str):
    with pytest.raises(Incompatible, match="your configuration is not the run's") as caught:
        accept_config(small_config(), small_config(setting))
    assert caught.value.why and caught.value.remedy


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("data.source=text:/etc/passwd", CorpusError),
        ("data.source=shards:/etc", CorpusError),
        ("data.tokenizer=/etc/passwd", CorpusError),
        ("model.family=os:system", ModelError),
        ("outer.codec=os:system", ConfigError),
    ],
)
def test_a_run_from_the_network_may_name_neither_paths_nor_code(
    setting: str, kind: type[SwarmError]
):
    offered = small_config(setting)
    with pytest.raises(kind) as caught:
        accept_config(offered, None)
    assert setting.partition("=")[2] in caught.value.why and "--config" in caught.value.remedy
    assert accept_config(offered, offered) is offered, "a local configuration may"


@pytest.mark.parametrize("stages", [None, (0,), (0, 1), (2,), (0, 1, 2)])
def test_stages_of_the_model_may_be_chosen(stages: tuple[int, ...] | None):
    check_stages(stages, small_config())


@pytest.mark.parametrize("stages", [(3,), (2, 3), (7,)])
def test_a_stage_that_the_model_has_not_is_refused(stages: tuple[int, ...]):
    with pytest.raises(ConfigError, match=f"no stage {stages[-1]}") as caught:
        check_stages(stages, small_config())
    assert "1 to 2" in caught.value.why and "--stage" in caught.value.remedy


def test_a_name_that_cannot_be_published_is_refused_at_once():
    for name in ("Ada", "ada lovelace", "a.b_c-1"):
        check_name(name)
    for name in ("", "Ada's laptop", "<b>", "x" * 65):
        with pytest.raises(ConfigError, match="--name"):
            check_name(name)


def test_a_region_is_a_short_name_or_nothing():
    for region in ("", "europe-west4", "r" * 64):
        check_region(region)
    for region in ("two words", "r" * 65, "a/b", "west\n"):
        with pytest.raises(ConfigError, match="no name of a region") as caught:
            check_region(region)
        assert caught.value.why and caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"version": "9.9"}, "another version"),
        ({"run": b"other" * 5}, "another run"),
        ({"corpus": "other"}, "another corpus"),
    ],
)
def test_links_between_different_runs_are_refused(changes: dict[str, object], what: str):
    with pytest.raises(Incompatible, match=what) as caught:
        check_compatible(HELLO, replace(HELLO, **changes))  # type: ignore[arg-type]
    assert caught.value.why and caught.value.remedy


def test_a_corpus_that_one_side_does_not_name_is_no_obstacle():
    check_compatible(HELLO, replace(HELLO, corpus="", kernel_class="other", peer=PeerId("b")))
