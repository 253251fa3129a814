"""What all sections of a configuration have in common: frozen, closed, and numbers and lists as TOML can say them."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from swarmtrain.core.errors import ConfigError
from swarmtrain.core.units import parse_bytes


def _whole_bytes(value: object) -> object:
    """Pydantic takes a ValueError as the field's own fault and adds the key."""
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes(value)
    except ConfigError as error:
        raise ValueError(f"{error.what}; {error.remedy}") from error


ByteCount = Annotated[int, BeforeValidator(_whole_bytes)]
"""Bytes, as a number or as text with a unit such as "256MiB"."""


def _as_tuple(value: object) -> object:
    """TOML has lists only, and a section keeps nothing that could change."""
    return tuple(value) if isinstance(value, list) else value


StageNumbers = Annotated[tuple[int, ...], BeforeValidator(_as_tuple)]
"""Stages, as a list of numbers."""


def _as_shares(value: Any) -> Any:
    """TOML's list of numbers as floats; anything else is left to fail."""
    if not isinstance(value, list) or not all(type(entry) in (int, float) for entry in value):
        return value
    return tuple(map(float, value))


Share = Annotated[float, Field(gt=0, le=1e6)]
Shares = Annotated[tuple[Share, ...], BeforeValidator(_as_shares)]
"""Proportions, as a list of numbers."""


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, no silent conversions, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
