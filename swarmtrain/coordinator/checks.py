"""Whether an event that a peer sent has the shape of its kind (I5): what is folded is shown to people and kept."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin

from swarmtrain.core.live import event_classes

NUMBERS_AS_TEXT = ("inf", "-inf", "nan")
"""JSON has no numbers for these (monitor.lines)."""

_FIELDS: Mapping[str, tuple[tuple[str, Any, bool], ...]] = {
    kind.kind_of(): tuple((f.name, f.type, f.default is MISSING) for f in fields(kind))
    for kind in event_classes()
}


def check_event(event: Mapping[str, Any]) -> None:
    """Raises KeyError where a known kind lacks a field, TypeError where a field is of another type. Knows all kinds
    that there are; what is not known is nobody's business."""
    for name, wanted, is_needed in _FIELDS.get(event["kind"], ()):
        if name in event:
            if not _is(event[name], wanted):
                raise TypeError(f"{name} of {event['kind']} is {event[name]!r:.80}, not {wanted}")
        elif is_needed:
            raise KeyError(name)


def _is(value: Any, wanted: Any) -> bool:
    if wanted is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number or value in NUMBERS_AS_TEXT
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(wanted) is not tuple:
        return isinstance(value, wanted)
    inner = get_args(wanted)
    if not isinstance(value, (list, tuple)):
        return False
    if len(inner) == 2 and inner[1] is Ellipsis:
        return all(_is(entry, inner[0]) for entry in value)
    return len(value) == len(inner) and all(map(_is, value, inner))
