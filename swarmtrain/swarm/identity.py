"""Who a peer is: an Ed25519 key whose public half names it.

The key never leaves its file. Losing it means joining as somebody new; nothing else depends on it.
"""

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from swarmtrain.core.errors import StateError
from swarmtrain.core.types import PeerId

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_SEED_BYTES = 32
_PEER_ID_CHARACTERS = 32


class Identity:
    """A private key, the peer id that follows from it, and what can be signed with it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key: bytes = key.public_key().public_bytes_raw()
        self.peer_id: PeerId = peer_id_of(self.public_key)

    @staticmethod
    def from_seed(seed: bytes) -> "Identity":
        """The identity that `seed` (32 bytes) stands for: the same on every machine."""
        return Identity(Ed25519PrivateKey.from_private_bytes(seed))

    @staticmethod
    def load_or_create(path: Path) -> "Identity":
        """The identity in `path`, made and written (owner-readable only) if there is none.

        Raises StateError if the file is damaged or the folder cannot be written.
        """
        try:
            if not path.exists():
                _write_new_seed(path)
            return Identity.from_seed(_parse_seed(path, path.read_bytes()))
        except OSError as error:
            raise StateError(
                f"the peer's key file {path} cannot be read or written",
                str(error),
                "check the folder's permissions, or name another folder for the key",
            ) from error

    def sign(self, data: bytes) -> bytes:
        """The signature (64 bytes) of `data`."""
        return self._key.sign(data)


def peer_id_of(public_key: bytes) -> PeerId:
    """The peer id of a public key (32 bytes): 32 hex characters of its SHA-256."""
    return PeerId(hashlib.sha256(public_key).hexdigest()[:_PEER_ID_CHARACTERS])


def verify(public_key: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` over `data` was made with the private half of `public_key`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _write_new_seed(path: Path) -> None:
    """Write a fresh seed; if another process was faster, its seed stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = Ed25519PrivateKey.generate().private_bytes_raw()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(seed.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A rename would replace a key that another process wrote meanwhile; a link does not.
        os.link(temporary, path)
    except FileExistsError:
        return
    finally:
        temporary.unlink()


def _parse_seed(path: Path, content: bytes) -> bytes:
    try:
        seed = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        seed = b""
    if len(seed) != _SEED_BYTES:
        raise StateError(
            f"the peer's key file {path} is damaged",
            f"it should hold {2 * _SEED_BYTES} hex digits and holds {len(content)} other bytes",
            "restore it from a copy, or delete it to join as a new peer",
        )
    return seed
