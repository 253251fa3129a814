"""The error tree. Every error a person sees says what happened, why, and what to do about it.

SwarmError
  ConfigError        a configuration key, value or combination           exit code 2
  CorpusError        the corpus or tokenizer is missing or differs        exit code 1
  ModelError         the model does not fit its protocol or the machine   exit code 1
  WireError          bytes from another peer are not what they claim      (costs the sender)
  LinkError          a link broke, was refused, or fell silent            exit code 3
    LinkClosed         the other side is gone
    LinkSilent         the other side is there but does not answer
    BadAddress         what was given is no address at all
    Refused            the handshake or a call was refused with a reason
      Incompatible       another version, run or corpus                   exit code 4
  DirectoryError     discovery is out of reach                            exit code 3
  StateError         a checkpoint or a transferred state is not whole     exit code 1
  Stopped            the run cannot go on (not survivable)                exit code 1
"""


class SwarmError(Exception):
    """Base of all errors this project raises on purpose: `what`, `why`, `remedy`."""

    exit_code = 1

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self.what, self.why, self.remedy = what, why, remedy

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.remedy:
            lines.append(f"  do:  {self.remedy}")
        return "\n".join(lines)


class ConfigError(SwarmError):
    """A configuration key, value or combination that cannot work."""

    exit_code = 2


class CorpusError(SwarmError):
    """The corpus or the tokenizer is missing, empty, or not the one the run uses."""


class ModelError(SwarmError):
    """A model that breaks the stage protocol or does not fit the machine."""


class WireError(SwarmError):
    """Bytes from another peer that are not what they claim to be (I5)."""


class LinkError(SwarmError):
    """A link to another peer failed."""

    exit_code = 3


class LinkClosed(LinkError):
    """The other side closed the link or died."""


class LinkSilent(LinkError):
    """The other side did not send anything for longer than the deadline allows (R7)."""


class BadAddress(LinkError):
    """What was given as an address cannot be one: nobody will ever answer there."""


class Refused(LinkError):
    """The other side answered, and the answer was no."""


class Incompatible(Refused):
    """The other side belongs to another version, run or corpus."""

    exit_code = 4


class DirectoryError(SwarmError):
    """The directory of peers is out of reach."""

    exit_code = 3


class StateError(SwarmError):
    """A checkpoint or a transferred stage state is damaged, incomplete or of another run."""


class Stopped(SwarmError):
    """The run stopped because what happened is not survivable; nothing wrong was committed (I2)."""
