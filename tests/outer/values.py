"""Values that tests of outer rounds share: any finite float32 there is, contributions, a member with its fragment."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from swarmtrain.outer.member import Fragment, FragmentMember, RoundSettings
from swarmtrain.outer.merge import Form, Merged, RoundContribution, RoundTag
from swarmtrain.outer.optimizer import AVERAGE, OuterState

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
"""With subnormals, both zeros and all exponents."""


def flats(elements: int) -> st.SearchStrategy[Tensor]:
    """float32 [elements], each element any finite one."""
    return st.lists(FLOATS, min_size=elements, max_size=elements).map(
        lambda values: torch.tensor(values, dtype=torch.float32)
    )


def random_bits(elements: int, seed: int) -> Tensor:
    """float32 [elements] of random bits, so of all exponents, infinity and NaN left out."""
    bits = np.random.default_rng(seed).integers(0, 1 << 32, elements, dtype=np.uint32)
    bits[(bits >> 23 & 0xFF) == 0xFF] &= np.uint32(0x80FFFFFF)
    return torch.from_numpy(bits.view(np.float32).copy())


def normal(elements: int, seed: int) -> Tensor:
    return torch.randn(elements, generator=torch.Generator().manual_seed(seed))


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two float32 tensors are equal bit for bit, which tells -0 from +0."""
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def tag(form: Form = Form.VALUES, number: int = 0, base: bytes = b"base") -> RoundTag:
    return RoundTag(0, 0, number, base, form)


def contribution(
    member: str, values: Tensor, tokens: int = 1, of: RoundTag | None = None
) -> RoundContribution:
    return RoundContribution(member, of or tag(), tokens, values)


def merged_of(values: Tensor | None, form: Form = Form.DIFFERENCE) -> Merged:
    return Merged(tag(form), ("a",), 1, values)


def fragment(elements: int) -> Fragment:
    return Fragment(0, 0, 0, elements, ((0, (elements,)),))


EXACT = RoundSettings(AVERAGE, "none")


def member(
    name: str, start: Tensor, settings: RoundSettings = EXACT, place: Fragment | None = None
) -> FragmentMember:
    state = OuterState.first(start, settings.optimizer)
    return FragmentMember(name, place or fragment(start.numel()), state, settings)
