"""Codecs of one's own: held to the contract, known by one name, imported on a local word only."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from swarmtrain.core.config import config_from_json, load_config
from swarmtrain.core.errors import ConfigError, WireError
from swarmtrain.core.outer_section import ROUND_CODECS
from swarmtrain.wire import codecs
from swarmtrain.wire.codec import check_size
from swarmtrain.wire.codecs import BUILT_IN, CODECS, codec_named, register, trust_codec
from swarmtrain.wire.contract import check_codec
from swarmtrain.wire.floats import Float16Codec

NAME = "my_codec:Halves"


@pytest.fixture(autouse=True)
def _unregistered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    for name in set(CODECS) - BUILT_IN:
        del codecs._known[name]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_codec.py").write_text(
        "from swarmtrain.wire.floats import Float16Codec\n\n"
        f"class Halves(Float16Codec):\n    name = {NAME!r}\n\n"
        "class Nameless(Float16Codec):\n    pass\n\nnumber = 3\n"
    )


class Own(Float16Codec):
    name = "own"


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_all_that_is_built_in_keeps_the_contract_and_can_be_configured(name: str) -> None:
    check_codec(codec_named(name))
    assert load_config((), [f"outer.codec={name}"]).outer.codec == name
    assert set(ROUND_CODECS) == BUILT_IN


def test_a_registered_codec_is_known_and_its_name_is_taken() -> None:
    register(Own())
    assert codec_named("own").encoded_bytes(7) == 14 and list(CODECS)[-1] == "own"
    for codec in (Own(), Float16Codec()):
        with pytest.raises(ConfigError, match="already"):
            register(codec)


def test_one_is_imported_on_a_local_word_only(module: None) -> None:
    config = config_from_json(load_config((), [f"outer.codec={NAME}"]).to_json())
    with pytest.raises(WireError, match="not known") as caught:
        codec_named(config.outer.codec)
    assert "int4, ternary" in caught.value.why and "RUN.toml" in caught.value.remedy
    for _ in range(2):
        trust_codec(NAME)
    assert codec_named(NAME).name == NAME
    trust_codec("auto")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module_here:Codec", "ModuleNotFoundError"),
        ("my_codec:Missing", "AttributeError"),
        ("my_codec:number", "TypeError"),
        ("my_codec:Nameless", "calls itself 'fp16'"),
    ],
)
def test_what_is_none_is_refused(module: None, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        trust_codec(name)


@pytest.mark.parametrize("name", ["int5", "", "AUTO", "os;system:x", "a:b:c", "x" * 300 + ":y"])
def test_the_configuration_names_what_there_is(name: str) -> None:
    with pytest.raises(ConfigError, match=r"outer\.codec") as caught:
        load_config((), [f'outer.codec="{name}"'])
    if len(name) <= 256:
        assert "ternary, rank8" in caught.value.why and "auto" in caught.value.why


class Planes(Own):
    plane_bytes = 3


class Exact(Own):
    lossy = False


class Stated(Own):
    def bits_per_parameter(self, *shape: int) -> float:
        return 8.0


class Larger(Own):
    def encode(self, x: Tensor) -> Tensor:
        return torch.cat((super().encode(x), super().encode(x)))


class Chance(Own):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x + torch.rand(x.shape))


class Hiding(Own):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x.nan_to_num(0.0, 0.0, 0.0))


class Trusting(Own):
    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        return super().decode(payload[: self.encoded_bytes(*shape)], shape)


class Flat(Own):
    def decode(self, payload: Tensor, shape: tuple[int, ...]) -> Tensor:
        check_size(self, payload, shape)
        return super().decode(payload, (payload.numel() // 2,))


class Raising(Own):
    def encode(self, x: Tensor) -> Tensor:
        raise KeyError("x")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Planes, "plane_bytes = 3"),
        (Exact, "changes bits"),
        (Stated, "takes 16 bits a parameter, stated are 8"),
        (Larger, "encoded_bytes says 2"),
        (Chance, "not always encoded to the same bytes"),
        (Hiding, "nan is lost"),
        (Trusting, "are not refused"),
        (Flat, "comes back as"),
        (Raising, "KeyError"),
    ],
)
def test_what_breaks_the_contract_is_not_registered(kind: type[Own], says: str) -> None:
    with pytest.raises(ConfigError, match="breaks the contract") as caught:
        register(kind())
    assert says in caught.value.why and "own" not in CODECS
