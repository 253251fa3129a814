"""What the contributions to one round come to, apart from the state that the result will change.

Decoding and summing take most of what a round costs a machine. All they need is fixed once the round is, so they may
run in any thread, beside the step's own work.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from swarmtrain.core.errors import WireError
from swarmtrain.core.rounds import Choice
from swarmtrain.outer.merge import Gathering, Merged, RoundContribution, RoundTag
from swarmtrain.outer.parcel import Buffer
from swarmtrain.outer.payload import may_be_sliced, mean_sections, slice_elements, values_of
from swarmtrain.outer.stage import member_name
from swarmtrain.wire.codec import Codec
from swarmtrain.wire.tensors import is_finite


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a round came to, and what the group chose with it."""

    merged: Merged
    choice: Choice


class SpoiltContribution(WireError):
    """What `island` contributed has the digest that it offered, and still makes no sense: the round goes without it."""

    def __init__(self, island: int, cause: WireError) -> None:
        super().__init__(f"the contribution of island {island} is refused", str(cause), "")
        self.island = island


@dataclass(frozen=True, slots=True)
class Reduction:
    """Of the round `tag` of a fragment of `elements`; both codecs are `payload.round_codec`'s."""

    tag: RoundTag
    elements: int
    codec: Codec
    """Of contributions."""
    answer: Codec
    """Of the means of slices."""
    zstd_level: int

    def whole(self, choice: Choice, payloads: Mapping[int, Sequence[Buffer]]) -> Result:
        """What the counted contributions, by island, come to. Raises SpoiltContribution for one that is refused."""
        return _result(choice, self._gathered(choice, payloads, self.elements).merged())

    def mean(
        self,
        choice: Choice,
        sections: tuple[int, int],
        payloads: Mapping[int, Sequence[Buffer]],
    ) -> tuple[Buffer, ...]:
        """The mean of a slice, encoded for all. `payloads` are these sections of all contributions.

        Raises SpoiltContribution for one that is refused.
        """
        start, stop = slice_elements(sections, self.elements)
        gathering = self._gathered(choice, payloads, stop - start, may_be_sliced)
        return mean_sections(gathering.merged(), self.answer, self.zstd_level)

    def of_means(self, choice: Choice, means: Sequence[Buffer]) -> Result:
        """What the means of all slices, in order, come to. Raises WireError."""
        values = values_of(means, self.answer, self.elements)
        if not is_finite(values):
            raise WireError("the means of a round are not finite", "one of them is not the mean")
        names = tuple(member_name(counted.island) for counted in choice.counted)
        tokens = sum(counted.tokens for counted in choice.counted)
        return _result(choice, Merged(self.tag, names, tokens, values))

    def _gathered(
        self,
        choice: Choice,
        payloads: Mapping[int, Sequence[Buffer]],
        elements: int,
        is_fit: Callable[[Tensor], bool] = is_finite,
    ) -> Gathering:
        gathering = Gathering(self.tag, elements)
        for counted in choice.counted:
            name = member_name(counted.island)
            try:
                values = values_of(payloads[counted.island], self.codec, elements)
                if not is_fit(values):
                    raise WireError("its values are not finite, or too large", "")
                gathering.add(RoundContribution(name, self.tag, counted.tokens, values))
            except WireError as error:
                raise SpoiltContribution(counted.island, error) from None
        return gathering


def _result(choice: Choice, merged: Merged) -> Result:
    """What an island's decision names by its digest: so that covers who votes next, and in what they send, as well. The
    same contributions may have been proposed with other voters before, and accepted by some."""
    voters = "".join(f" {member.island} {member.version}" for member in choice.members)
    digest = hashlib.sha256(merged.digest() + f"{choice.codec}{voters}".encode())
    return Result(merged, replace(choice, result=digest.digest()))
