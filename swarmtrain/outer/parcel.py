"""What of a round travels between peers: sections, each checked by itself, and the table that they are checked against.

A parcel is an island's contribution, or the mean of one slice. Its table has the length and the digest of each section;
the digest of the table names a contribution, so whoever knows that name can take any section from anybody (I5).
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from swarmtrain.core.errors import WireError
from swarmtrain.core.types import Digest

Buffer = bytes | bytearray | memoryview

DIGEST_BYTES = 16
"""Of a section: against damage, as in tensor headers; the table's own digest is whole."""

_ENTRY = struct.Struct(f"<I{DIGEST_BYTES}s")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many sections a parcel has, or at most has, and what one may take."""

    sections: int
    section_bytes: int
    is_exact: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """Length in bytes and digest of every section, in order."""

    lengths: tuple[int, ...]
    digests: tuple[bytes, ...]

    @staticmethod
    def of(sections: Sequence[Buffer]) -> "Table":
        return Table(
            tuple(len(section) for section in sections),
            tuple(section_digest(section) for section in sections),
        )

    @staticmethod
    def read(data: Buffer, bounds: Bounds) -> "Table":
        """The table in `data`. Raises WireError for one that no parcel within `bounds` has."""
        count, rest = divmod(len(data), _ENTRY.size)
        is_fitting = count == bounds.sections if bounds.is_exact else 1 <= count <= bounds.sections
        if rest or not is_fitting:
            raise WireError(
                "a table of sections has another size than it should",
                f"it has {len(data)} bytes, for {bounds.sections} sections",
            )
        entries = list(_ENTRY.iter_unpack(data))
        table = Table(tuple(entry[0] for entry in entries), tuple(entry[1] for entry in entries))
        if not all(0 < length <= bounds.section_bytes for length in table.lengths):
            raise WireError(
                "a section is too large, or empty",
                f"{max(table.lengths)} bytes at most, {bounds.section_bytes} allowed",
            )
        return table

    def encoded(self) -> bytes:
        return b"".join(map(_ENTRY.pack, self.lengths, self.digests))

    @property
    def digest(self) -> Digest:
        return hashlib.sha256(self.encoded()).digest()

    @property
    def total_bytes(self) -> int:
        """Of all sections and the table itself."""
        return sum(self.lengths) + _ENTRY.size * len(self.lengths)

    def fits(self, number: int, section: Buffer) -> bool:
        """Whether `section` is what the table says of that number."""
        return self.digests[number] == section_digest(section)

    def pieces(self, first: int, stop: int, piece_bytes: int) -> list[tuple[int, int]]:
        """The sections from `first` up to `stop` in runs of at most `piece_bytes`, or of one: (first, stop) each."""
        runs: list[tuple[int, int]] = []
        begin, held_bytes = first, 0
        for number in range(first, stop):
            if number > begin and held_bytes + self.lengths[number] > piece_bytes:
                runs.append((begin, number))
                begin, held_bytes = number, 0
            held_bytes += self.lengths[number]
        return [*runs, (begin, stop)] if stop > first else runs

    def split(self, first: int, stop: int, body: Buffer) -> list[memoryview]:
        """`body` as the sections from `first` up to `stop`. Raises WireError when it is not made of these."""
        if not 0 <= first <= stop <= len(self.lengths):
            raise WireError("sections that a parcel does not have", f"{first} to {stop}")
        view = memoryview(body).cast("B")
        if len(view) != sum(self.lengths[first:stop]):
            raise WireError("sections have another size than the table says", f"{len(view)} bytes")
        found, at = [], 0
        for number in range(first, stop):
            section = view[at : at + self.lengths[number]]
            if not self.fits(number, section):
                raise WireError(
                    "a section is not the one that the table names",
                    f"section {number} was damaged",
                    "fetch it from another peer",
                )
            found.append(section)
            at += len(section)
        return found


def section_digest(section: Buffer) -> bytes:
    return hashlib.sha256(section).digest()[:DIGEST_BYTES]
