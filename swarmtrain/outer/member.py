"""One member's side of the rounds of one fragment: what it sends, and what a merged round does to its parameters.

    send    contribution = local, or codec(outer - local + residual), tagged with the digest of `outer`
    merge   outer = outer step(outer, mean);  then the local parameters follow:
            none of its own steps since it sent     local = outer
            late, progress carried on top           local = local - (sent - outer)
            late, merge factor alpha                local = alpha local + (1 - alpha) outer

The pseudo-gradient is always taken from the newest outer parameters, whatever the delay, so its base is what the
group has in common. Carried on top (diloco.md section 3.4: 2.27 against 3.30 for starting again from the late result)
is written as a correction by what the group changed: alone, with plain averages, a member's parameters then are what
they would be without rounds, to the bit. The merge factor is Streaming DiLoCo's (arXiv 2501.18512, section 2.3).

A member that missed a round takes its result like all others; what it had sent stays in its residual and goes with the
next payload (diloco.md section 6). Which round counted a member last is kept beside the outer state, so that one that
comes back from a snapshot knows what of its progress is in there already: none is lost, and none counts twice. Nothing
here waits, sends or reads a clock.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from torch import Tensor

from swarmtrain.core.errors import StateError
from swarmtrain.core.rounds import Measured, RoundCodec
from swarmtrain.outer.merge import Gathering, Merged, RoundContribution, RoundTag
from swarmtrain.outer.optimizer import OuterOptimizer, OuterState, outer_step
from swarmtrain.outer.payload import Payload, Sender, answered, round_codec
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.codecs import ROUND_CODEC, ROUND_ZSTD_LEVEL
from swarmtrain.wire.parts import Part
from swarmtrain.wire.tensors import is_finite


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """What all members of a run must have alike about the arithmetic of rounds."""

    optimizer: OuterOptimizer
    codec: str = ROUND_CODEC
    """Of what members send."""
    answer: str | None = None
    """Codec of the mean on its way back; None: every member gathers and decodes all contributions."""
    zstd_level: int = ROUND_ZSTD_LEVEL
    feedback: bool | None = None
    """Whether what codecs leave out is sent later; None asks the codec."""
    distortion: float | None = None
    """What `budget.next_codec` may spend; rounds begin with `codec` then. None: `codec` throughout."""
    merge_factor: float | None = None
    """Share of the local parameters that stays when a result comes late; None carries local progress on top."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """Where a fragment lies: elements `start` to `stop` of its stage, and the tensors within, from its start."""

    stage: int
    number: int
    start: int
    stop: int
    tensors: tuple[Part, ...]

    @property
    def elements(self) -> int:
        return self.stop - self.start


def cut_stage(
    stage: int, tensors: Sequence[Part], bounds: Sequence[tuple[int, int]]
) -> tuple[Fragment, ...]:
    """The fragments of a stage whose `tensors` lie in its flat layout; `bounds` are `rounds.fragment_bounds`."""
    return tuple(
        Fragment(
            stage,
            number,
            start,
            stop,
            tuple((offset - start, shape) for offset, shape in tensors if start <= offset < stop),
        )
        for number, (start, stop) in enumerate(bounds)
    )


class FragmentMember:
    """A member's state of one fragment. `state` is the group's: equal at all members between rounds.

    `clock` in what follows is how many inner steps the member has taken: it tells whether its parameters moved.
    """

    def __init__(
        self,
        member: str,
        fragment: Fragment,
        state: OuterState,
        settings: RoundSettings,
        clock: int = 0,
    ) -> None:
        """Owns `state` from now on. Whoever joins later starts from the group's state, with parameters equal to it."""
        self.member, self.fragment, self.state = member, fragment, state
        self._settings = settings
        measures = settings.distortion is not None
        self.sender = Sender(
            self._codec, fragment.elements, settings.feedback, settings.zstd_level, measures
        )
        self._clock = clock
        self._sent: Tensor | None = None
        self._sent_from: Tensor | None = None
        self._measured: tuple[Measured, ...] = ()
        self._last_rate = 0.0
        self._base = state.digest()
        self.counted: dict[str, int] = {}
        """The last round that counted each member: as much the group's as `state`."""

    @property
    def codec_name(self) -> str:
        """Of the round that comes next, or that is under way."""
        return self.state.codec or self._settings.codec

    @property
    def _codec(self) -> Codec:
        return round_codec(self.codec_name, self.fragment.elements, self.fragment.tensors)

    @property
    def tag(self) -> RoundTag:
        """Of the round that comes next, or that is under way."""
        place = self.fragment
        return RoundTag(place.stage, place.number, self.state.round, self._base, self.sender.form)

    def gathering(self) -> Gathering:
        """An empty gathering for the round that comes next."""
        return Gathering(self.tag, self.fragment.elements)

    def send(
        self, local: Tensor, tokens: int, clock: int, learning_rate: float
    ) -> tuple[RoundContribution, Payload] | None:
        """The contribution of `local`, float32 [elements], and how it looks on the wire.

        `tokens` are those committed since the last call, `learning_rate` the inner one now. None when there is nothing
        to weigh or nothing finite to send: the member then takes part in the result alone.
        """
        self._clock = clock
        self._sent, self._sent_from = None, local.clone()
        if not tokens:
            return None
        try:
            payload = self.sender.make(self.state.parameters, local, self._ratio(learning_rate))
        except StateError:
            return None
        self._sent, self._measured = payload.values, payload.measured
        contribution = RoundContribution(self.member, self.tag, tokens, payload.values)
        return contribution, payload

    def send_again(self, tokens: int) -> tuple[RoundContribution, Payload] | None:
        """The contribution under way once more, where nobody has what this member sent: it weighs `tokens`.

        None where there is none, or it cannot be had to the bit: what was in it goes with the next one then.
        """
        if self._sent is None:
            return None
        payload = self.sender.again(self._sent)
        if payload is None:
            self.sender.lost(self._sent, self.state.parameters)
            self._sent = None
            return None
        contribution = RoundContribution(self.member, self.tag, tokens, payload.values)
        return contribution, replace(payload, measured=self._measured)

    def merge(self, merged: Merged, local: Tensor, clock: int, next_codec: RoundCodec = "") -> None:
        """Take a round's result: the outer state and `local`, float32 [elements], change in place.

        The next round sends in `next_codec`, if the group chose one, and else in what this one was sent in; where
        nothing was counted, in the configured one: perhaps nobody's contribution fitted what was chosen.

        Raises StateError, with nothing changed, for another round than the next, or made against another state.
        """
        if merged.tag != self.tag:
            raise StateError(
                f"the result of round {merged.tag.round} cannot be merged at round {self.state.round}",
                "it was made against other outer parameters",
                "fetch the outer state of the group",
            )
        if self._sent is not None and self.member not in merged.members:
            self.sender.lost(self._sent, self.state.parameters)
        sent_from = self._sent_from
        if self.counts_earlier_life(merged):
            # Its progress since then is of the same samples.
            self.sender.residual.clear()
            self._clock = clock
        if sent_from is None:
            # It joined while the round was under way: it started from the outer parameters themselves.
            sent_from = self.state.parameters.clone()
        self.counted.update(dict.fromkeys(merged.members, merged.tag.round))
        outer_step(self.state, merged, self._settings.optimizer)
        self.state.codec = next_codec or (self.state.codec if merged.members else "")
        self.sender.codec = self._codec
        self._base = self.state.digest()
        self._sent, self._sent_from = None, None
        follow(local, sent_from, self.state.parameters, clock > self._clock, self._settings)

    def counts_earlier_life(self, merged: Merged) -> bool:
        """Whether `merged` has what this member sent before it went back to an earlier state."""
        return self._sent_from is None and self.member in merged.members

    def catch_up(
        self, state: OuterState, counted: Mapping[str, int], local: Tensor, clock: int
    ) -> str:
        """Come back to the group, which is at `state` by now: owns it, and sets `local` to its parameters in place.

        All that this member did on its own and the group's `counted` does not have goes with its next payload: its
        progress since its last one, and that as well. Who went back to an earlier state may have done again what was
        sent in an earlier life; a round that counted it later than this one knows of has all of it. Measuring `local`
        against the new outer parameters instead would take back what the others did meanwhile, and refusing what was
        made against the old ones is what tags are for. Returns in words what goes again.
        """
        number, last = self.state.round, counted.get(self.member, -1)
        since = self.state.parameters if self._sent_from is None else self._sent_from
        goes_again = []
        if last >= number + self.is_sent:
            self.sender.residual.clear()
        elif is_finite(local):
            self.sender.residual.restore(since - local)
            goes_again.append("its progress since")
        if self._sent is not None and last < number:
            self.sender.lost(self._sent, self.state.parameters)
            goes_again.append(f"what it sent to round {number}")
        self.state, self._base, self._clock = state, state.digest(), clock
        self.sender.codec = self._codec
        self._sent, self._sent_from, self.counted = None, None, dict(counted)
        local.copy_(state.parameters)
        known = f"round {last} counted it last" if last >= 0 else "no round counted it"
        return f"{known}; {' and '.join(goes_again) or 'nothing'} goes with its next contribution"

    # ---- for other replicas of this island, snapshots and checkpoints -----------------------------------------------

    @property
    def is_sent(self) -> bool:
        """Whether this member has done its part of the round that comes next."""
        return self._sent_from is not None

    def saved(self) -> tuple[dict[str, object], list[Tensor]]:
        """Counters, and the flat tensors they go with: views, not copies. `restored` reads them."""
        counters: dict[str, object] = {
            **self.state.counters(),
            "clock": self._clock,
            "last_rate": self._last_rate,
            "is_sent": self._sent_from is not None,
            "has_payload": self._sent is not None,
            "counted": self.counted,
        }
        if self._measured:
            counters["measured"] = [astuple(entry) for entry in self._measured]
        own = [self.state.parameters, self.state.momentum, *self.sender.residual.flats]
        return counters, own + [flat for flat in (self._sent_from, self._sent) if flat is not None]

    def restored(self, counters: Mapping[str, Any], flats: Sequence[Tensor]) -> "FragmentMember":
        """A member of the same fragment in the state that was saved; owns `flats`. Raises StateError."""
        optimizer, elements = self._settings.optimizer, self.fragment.elements
        is_sent, has_payload = (counters.get(name) is True for name in ("is_sent", "has_payload"))
        sizes = [elements, elements if optimizer.keeps_momentum else 0, elements, elements]
        sizes += [elements] * (is_sent + has_payload)
        if [flat.numel() for flat in flats] != sizes or has_payload > is_sent:
            raise _unfit("its arrays have other lengths")
        arrays = {"outer_parameters": flats[0].numpy(), "outer_momentum": flats[1].numpy()}
        state = OuterState.restored(arrays, counters, elements, optimizer)
        clock, last_rate, counted = _counters_of(counters, state.round)
        member = FragmentMember(self.member, self.fragment, state, self._settings, clock)
        for mine, saved in zip(member.sender.residual.flats, flats[2:4], strict=True):
            mine.copy_(saved)
        member._last_rate, member.counted = last_rate, counted
        member._measured = _measured_of(counters)
        rest = list(flats[4:])
        member._sent_from = rest.pop(0) if is_sent else None
        member._sent = rest.pop(0) if has_payload else None
        return member

    def _ratio(self, learning_rate: float) -> float:
        """What the residual is worth now: see `Residual.take`. With no outer momentum the residual is the momentum."""
        before, self._last_rate = self._last_rate, learning_rate
        keeps_momentum = self._settings.optimizer.keeps_momentum
        return learning_rate / before if keeps_momentum and before > 0.0 else 1.0


def _counters_of(
    counters: Mapping[str, Any], round_number: int
) -> tuple[int, float, dict[str, int]]:
    """Clock, last learning rate and `counted` of a saved member whose next round this is. Raises StateError."""
    clock, rate = counters.get("clock", 0), counters.get("last_rate", 0.0)
    counted = counters.get("counted", {})
    if type(clock) is not int or type(rate) not in (int, float) or not math.isfinite(rate):
        raise _unfit(f"its clock is {clock!r}, its learning rate {rate!r}")
    is_mapping = isinstance(counted, Mapping) and all(isinstance(name, str) for name in counted)
    if not is_mapping or not all(
        type(at) is int and 0 <= at < round_number for at in counted.values()
    ):
        raise _unfit(f"what it says of who was counted makes no sense at round {round_number}")
    return clock, float(rate), dict(counted)


def _measured_of(counters: Mapping[str, Any]) -> tuple[Measured, ...]:
    """What codecs do to the contribution under way, as it was saved. Raises StateError."""
    try:
        found = [
            (str(name), float(bits), float(error))
            for name, bits, error in counters.get("measured", ())
        ]
    except (TypeError, ValueError) as error:
        raise _unfit(f"what it measured makes no sense ({error})") from None
    if not all(math.isfinite(bits) and math.isfinite(error) for _, bits, error in found):
        raise _unfit("what it measured is not finite")
    return tuple(Measured(*entry) for entry in found)


def _unfit(why: str) -> StateError:
    return StateError(
        "a saved member of a group does not fit its fragment", why, "take another replica's"
    )


def follow(
    local: Tensor, sent_from: Tensor, outer: Tensor, has_moved: bool, settings: RoundSettings
) -> None:
    """What the local parameters become, in place; all float32 [elements]. `sent_from` is used up.

    Without a step of its own since, `local - (local - outer)` would only nearly be `outer`. Parameters that are not
    finite are not worth keeping either.
    """
    if not has_moved or not is_finite(local):
        local.copy_(outer)
    elif settings.merge_factor is None:
        local.sub_(sent_from.sub_(outer))
    else:
        share = settings.merge_factor
        local.mul_(share).add_(outer * (1.0 - share))


def close(gathering: Gathering, settings: RoundSettings, fragment: Fragment) -> tuple[Merged, int]:
    """The round as all members get it, and the bytes of the mean where it travels by itself.

    Raises StateError when the mean does not fit the codec of the answer.
    """
    merged = gathering.merged()
    if settings.answer is None:
        return merged, 0
    codec = round_codec(settings.answer, fragment.elements, fragment.tensors)
    return answered(merged, codec, settings.zstd_level)
