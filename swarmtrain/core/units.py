"""Quantities as people write them: "256MiB", "20Mbit", "3m", to plain numbers and back.

A quantity is one number and one unit. Parsing is exact (no float in between). Formatting keeps three digits, so
from one smallest unit up a formatted quantity parses back to within half a percent, and exactly when it is a
whole number of the unit it is written in.
"""

import re
from collections.abc import Mapping
from fractions import Fraction

from swarmtrain.core.errors import ConfigError

_QUANTITY = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*")

# Largest unit first: formatting takes the first that fits.
_BINARY_BYTES = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_DECIMAL_BYTES = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "KB": 10**3}
_BYTES = {unit: Fraction(size) for unit, size in (_BINARY_BYTES | _DECIMAL_BYTES).items()}
_BITS = {
    unit: Fraction(size, 8)
    for unit, size in {"Gbit": 10**9, "Mbit": 10**6, "Kbit": 10**3, "bit": 1}.items()
}
_SECONDS = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 10**6),
}


def parse_bytes(text: str) -> int:
    """Bytes from "256MiB" (1024s), "1.5GB" (1000s) or "4096"; ConfigError for anything else."""
    count = _parse(text, _BYTES, bare="B", example="256MiB")
    if count.denominator != 1:
        raise ConfigError(f"{text!r} is not a whole number of bytes", remedy="write it in bytes")
    return int(count)


def format_bytes(count_bytes: int) -> str:
    """Bytes as people read them: 268435456 is "256MiB"."""
    sizes = {unit: Fraction(size) for unit, size in _BINARY_BYTES.items()}
    return _format(Fraction(count_bytes), sizes)


def parse_bytes_per_second(text: str) -> float:
    """Bytes per second from "20Mbit", "1.2Gbit/s" (1000s) or "5MB/s"; ConfigError for anything else."""
    return float(_parse(text.strip().removesuffix("/s"), _BITS | _BYTES, bare="", example="20Mbit"))


def format_bytes_per_second(rate_bytes_per_second: float) -> str:
    """A link's rate as people read it: 2.5e6 bytes per second is "20Mbit/s"."""
    return _format(Fraction(rate_bytes_per_second), _BITS) + "/s"


def parse_seconds(text: str) -> float:
    """Seconds from "250ms", "4s", "3m", "2h" or "90"; ConfigError for anything else."""
    return float(_parse(text, _SECONDS, bare="s", example="3m"))


def format_seconds(seconds: float) -> str:
    """A duration as people read it: 0.25 is "250ms", 180 is "3m"."""
    return _format(Fraction(seconds), _SECONDS)


def _parse(text: str, units: Mapping[str, Fraction], *, bare: str, example: str) -> Fraction:
    """The quantity in `text`; a number without a unit counts in `bare`, or is refused if that is empty."""
    match = _QUANTITY.fullmatch(text)
    unit = (match[2] or bare) if match else ""
    # Capitals count: reading "20Mb" as either bits or bytes would be a guess.
    size = units.get(unit)
    if match is None or size is None:
        known = ", ".join(units)
        raise ConfigError(
            f"{text!r} is not a quantity",
            f"a quantity is one number and one unit of: {known}",
            f"write it like {example!r}",
        )
    return Fraction(match[1]) * size


def _format(value: Fraction, units: Mapping[str, Fraction]) -> str:
    """`value` in the largest unit of which it has at least one; three digits unless the number is whole."""
    smallest = min(units, key=units.__getitem__)
    unit = next((name for name, size in units.items() if abs(value) >= size), smallest)
    if value == 0:
        unit = next(name for name, size in units.items() if size <= 1)
    count = value / units[unit]
    if count.denominator == 1:
        return f"{int(count)}{unit}"
    digits = max(0, 3 - len(str(int(abs(count)))))
    return f"{float(count):.{digits}f}{unit}"


def per_token(count_bytes: int, tokens: int) -> float | None:
    """Bytes a token; None where there were no tokens."""
    return count_bytes / tokens if tokens else None
