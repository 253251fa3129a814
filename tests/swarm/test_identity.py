"""Keys: written once, private, checked when read."""

import hashlib
import stat
from pathlib import Path

import pytest

from swarmtrain.core.errors import StateError
from swarmtrain.swarm.identity import Identity, verify


def test_the_same_seed_is_the_same_peer() -> None:
    first, second = Identity.from_seed(b"a" * 32), Identity.from_seed(b"a" * 32)
    assert first.peer_id == second.peer_id != Identity.from_seed(b"b" * 32).peer_id
    assert first.sign(b"data") == second.sign(b"data")


def test_the_peer_id_follows_from_the_public_key() -> None:
    identity = Identity.from_seed(b"a" * 32)
    assert identity.peer_id == hashlib.sha256(identity.public_key).hexdigest()[:32]


def test_a_signature_holds_for_its_key_and_data_alone() -> None:
    one, other = Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32)
    signature = one.sign(b"data")
    assert verify(one.public_key, b"data", signature)
    assert not verify(one.public_key, b"date", signature)
    assert not verify(other.public_key, b"data", signature)
    assert not verify(b"short", b"data", signature)
    assert not verify(one.public_key, b"data", b"short")


def test_a_key_is_created_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "peer.key"
    created = Identity.load_or_create(path)
    assert Identity.load_or_create(path).peer_id == created.peer_id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_two_creators_agree_on_the_first_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "peer.key"
    winner = Identity.load_or_create(path)
    # The second creator looked before the first had written.
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert Identity.load_or_create(path).peer_id == winner.peer_id
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"ab" * 31, b"ab" * 33, b"\xff" * 64])
def test_a_damaged_key_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peer.key"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"damaged(.|\n)*delete it to join as a new peer"):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


def test_an_unusable_folder_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be read or written"):
        Identity.load_or_create(tmp_path / "file" / "peer.key")
