"""Quantities: exact where they can be, refused where they would be a guess."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtrain.core.errors import ConfigError
from swarmtrain.core.units import (
    format_bytes,
    format_bytes_per_second,
    format_seconds,
    parse_bytes,
    parse_bytes_per_second,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("text", "count_bytes"),
    [
        ("4096", 4096),
        ("256MiB", 256 << 20),
        (" 1.5 GiB ", 3 << 29),
        ("1GB", 10**9),
        ("2KB", 2000),
        ("0B", 0),
        ("999999999999999999B", 10**18 - 1),
    ],
)
def test_parse_bytes(text: str, count_bytes: int) -> None:
    assert parse_bytes(text) == count_bytes


@pytest.mark.parametrize(
    "text",
    ["", "MiB", "-1B", "1e9", "1MB2", "256 mib", "20Mb", "20Mbit", "0.3B", "9" * 40, "\u0661MiB"],
)
def test_parse_bytes_refuses(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bytes(text)
    assert repr(text) in caught.value.what
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "rate"),
    [("20Mbit", 2.5e6), ("1.2Gbit/s", 1.5e8), ("5MB/s", 5e6), ("8bit", 1.0), ("1MiB", 1048576.0)],
)
def test_parse_bytes_per_second(text: str, rate: float) -> None:
    assert parse_bytes_per_second(text) == rate


@pytest.mark.parametrize("text", ["20", "20Mb", "20mbit", "/s"])
def test_parse_bytes_per_second_refuses(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_bytes_per_second(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("4s", 4.0),
        ("90", 90.0),
        ("3m", 180.0),
        ("2h", 7200.0),
        ("1.5d", 129_600.0),
    ],
)
def test_parse_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


def test_minutes_are_not_months_or_megas() -> None:
    with pytest.raises(ConfigError):
        parse_seconds("3M")


def test_formats_read_well() -> None:
    assert format_bytes(0) == "0B"
    assert format_bytes(1023) == "1023B"
    assert format_bytes(256 << 20) == "256MiB"
    assert format_bytes(3 << 29) == "1.50GiB"
    assert format_bytes_per_second(2.5e6) == "20Mbit/s"
    assert format_bytes_per_second(0) == "0bit/s"
    assert format_seconds(0.25) == "250ms"
    assert format_seconds(180) == "3m"
    assert format_seconds(0) == "0s"


@given(st.integers(0, 1 << 50))
def test_formatted_bytes_parse_back(count_bytes: int) -> None:
    # Two digits after the point of a unit may leave a part of a byte: read the number alone.
    text = format_bytes(count_bytes)
    try:
        parsed = Fraction(parse_bytes(text))
    except ConfigError as error:
        assert "whole number of bytes" in error.what
        return
    assert abs(parsed - count_bytes) * 200 <= count_bytes


@given(st.integers(1, 1023), st.sampled_from([1, 1 << 10, 1 << 20, 1 << 30, 1 << 40]))
def test_whole_units_parse_back_exactly(count: int, unit_bytes: int) -> None:
    assert parse_bytes(format_bytes(count * unit_bytes)) == count * unit_bytes


@given(st.floats(1e-6, 1e9))
def test_formatted_seconds_parse_back(seconds: float) -> None:
    assert parse_seconds(format_seconds(seconds)) == pytest.approx(seconds, rel=0.005)


@given(st.floats(0.125, 1e12))
def test_formatted_rates_parse_back(rate: float) -> None:
    assert parse_bytes_per_second(format_bytes_per_second(rate)) == pytest.approx(rate, rel=0.005)
