"""The points that a process passes as its frames leave: see core/faultpoints.py."""

from swarmtrain.core.faultpoints import is_armed, sending
from swarmtrain.transport.frames import Kind, unpack
from swarmtrain.transport.link import LinkLimits
from swarmtrain.transport.step_messages import read_step

_LIMITS = LinkLimits()


def leaving(frame_bytes: bytes) -> None:
    """This frame goes to the line next, after all that were passed here before it."""
    if not is_armed() or frame_bytes[0] != Kind.TELL:
        return
    frame = unpack(frame_bytes, _LIMITS)
    if frame.method == "step":
        sending(read_step(frame.meta).message)
