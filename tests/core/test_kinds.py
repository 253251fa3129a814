"""The kinds of events a process knows do not depend on what else it has imported."""

import subprocess
import sys

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


def test_every_kind_is_known_to_who_asks_before_anything_else_is_imported():
    """A coordinator drops kinds that it does not know, and imports less than a peer."""
    ran = subprocess.run([sys.executable, "-c", ALL], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
