"""How a tensor is described on the wire, apart from its bytes; stdlib only, shared by `wire` and `transport`."""

from dataclasses import dataclass

from swarmtrain.core.types import Digest


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a payload claims to be; every field is checked before it is used (I5).

    `raw_bytes` is the size after decompression and before the codec is undone, `payload_bytes` what travels,
    `digest` the SHA-256 of the payload.
    """

    dtype: str
    shape: tuple[int, ...]
    codec: str
    compression: str
    raw_bytes: int
    payload_bytes: int
    digest: Digest
