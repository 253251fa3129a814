"""Events of a peer that its volunteer's terms take out of a run for a while (plan.terms)."""

from dataclasses import dataclass

from swarmtrain.core.events import Event


@dataclass(frozen=True, slots=True)
class Paused(Event):
    """A volunteer's terms (plan.terms) took this peer out of the run; `resumes` says what brings it back."""

    peer: str
    reason: str
    resumes: str


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """This peer came back with its old identity after a pause of `seconds`."""

    peer: str
    reason: str
    seconds: float
