"""The kinds of events a process knows do not depend on what else it has imported."""

import subprocess
import sys

CHECKED = """
from swarmtrain.coordinator.checks import _FIELDS
from swarmtrain.core.live import kinds
print(*(kinds() ^ set(_FIELDS)))
"""
ALL = """
import pkgutil
import swarmtrain
from swarmtrain.core.events import Event
from swarmtrain.core.live import kinds
before = kinds()
for module in pkgutil.walk_packages(swarmtrain.__path__, "swarmtrain."):
    if module.name.split(".")[1] in ("core", "steps", "peer", "coordinator", "experiments", "monitor"):
        __import__(module.name)
print(*({event.kind_of() for event in Event.__subclasses__()} ^ before))
"""


def said_by(program: str) -> list[str]:
    """The words that a process of its own prints."""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return ran.stdout.split()


def test_every_kind_is_known_to_who_asks_before_anything_else_is_imported():
    """A coordinator drops kinds that it does not know, and imports less than a peer."""
    assert said_by(ALL) == []


def test_events_of_every_kind_are_checked_whatever_was_imported_before():
    """What is not known to the checks would be folded in whatever shape a peer sent it."""
    assert said_by(CHECKED) == []
