"""A world of outer rounds that are reduced in slices: owners make means and serve them, and whoever cannot have one
makes it. What is served may be damaged. The judge knows what every round should come to.
"""

from swarmtrain.core.errors import StateError, WireError
from swarmtrain.core.rounds import Choice
from swarmtrain.core.types import Digest
from swarmtrain.outer.effects import Gather
from swarmtrain.outer.parcel import Table
from swarmtrain.outer.slices import Sizes, bounds, check, mean_name
from tests.outer.group_faults import FaultyWorld
from tests.outer.group_world import Actor, Violation, hashed, merged

SECTIONS = 24
DAMAGED = 0.1
"""Of the means that peers serve."""
MOST_WAITS = 6
"""How often a peer asks an owner that is still at work."""

Sections = tuple[bytes, ...]


class Missing(Exception):
    """Contributions of these islands are nowhere in reach."""


def section(payload: Digest, number: int) -> bytes:
    """Of a contribution."""
    return hashed(payload, number)[:4]


def mean_of(choice: Choice, first: int, stop: int) -> Sections:
    """What the owner of these sections makes of the contributions."""
    counted = [(entry.tokens, entry.digest) for entry in choice.counted]
    return tuple(
        hashed([(tokens, section(payload, number)) for tokens, payload in counted])[:4]
        for number in range(first, stop)
    )


def result_of(base: Digest, choice: Choice, means: Sections) -> Digest:
    return merged(base, choice, means)


def due(base: Digest, choice: Choice) -> Digest:
    """What `choice` comes to, gathered or in slices."""
    if not choice.slices:
        return merged(base, choice)
    return result_of(base, choice, mean_of(choice, 0, SECTIONS))


class SlicedWorld(FaultyWorld):
    """As `FaultyWorld`, over lines so slow that slices pay."""

    sizes = Sizes(SECTIONS, 10**9, 10**9)

    def uplink(self, actor: Actor) -> float:
        return self.random.choice((0.0, 1e5, 3e5, 1e6))

    # ---- how an actor comes by a result ---------------------------------------------------------------------------

    def gather(self, actor: Actor, effect: Gather, base: Digest, waited: int = 0) -> None:
        choice = effect.choice
        if not choice.slices:
            super().gather(actor, effect, base)
            return
        check(choice, SECTIONS)
        try:
            self.reduce_own(actor, choice)
            if waited < MOST_WAITS and self.is_awaiting(actor, choice):
                again = waited + 1
                self.later(0.2, 1.0, actor, lambda: self.gather(actor, effect, base, again))
                return
            found = self.sliced(actor, choice, base)
        except Missing as missing:
            self.gathered(actor, effect, b"", missing.args[0])
            return
        self.gathered(actor, effect, found if choice.result in (b"", found) else b"", ())

    def can_merge(self, actor: Actor, choice: Choice, base: Digest) -> bool:
        if not choice.slices:
            return super().can_merge(actor, choice, base)
        try:
            return self.sliced(actor, choice, base) == choice.result
        except Missing:
            return False

    def sliced(self, actor: Actor, choice: Choice, base: Digest) -> Digest:
        """The result, as `peer.merging` comes by it. Raises Missing."""
        cut = bounds(choice.slices)
        means = [self.mean(actor, choice, number) for number in range(len(cut))]
        found = result_of(base, choice, tuple(section for mean in means for section in mean))
        if choice.result not in (b"", found):
            means = [self.reduced(actor, choice, number) for number in range(len(cut))]
            found = result_of(base, choice, tuple(section for mean in means for section in mean))
        return found

    def reduce_own(self, actor: Actor, choice: Choice) -> None:
        for number, entry in enumerate(choice.slices):
            if entry.peer == actor.peer:
                self.mean(actor, choice, number)

    def is_awaiting(self, actor: Actor, choice: Choice) -> bool:
        """Whether an owner in reach has not made its mean yet."""
        return any(
            self.reaches(actor.peer, entry.peer)
            and mean_name(choice, number) not in self.actors[entry.peer].means
            for number, entry in enumerate(choice.slices)
        )

    def mean(self, actor: Actor, choice: Choice, number: int) -> Sections:
        name = mean_name(choice, number)
        if name in actor.means:
            return actor.means[name]
        owner = choice.slices[number].peer
        if owner == actor.peer and not choice.result:
            return self.reduced(actor, choice, number)
        for peer in (owner, *(p for p in sorted(self.actors) if p != owner)):
            if self.reaches(actor.peer, peer) and name in self.actors[peer].means:
                try:
                    actor.means[name] = self.served(self.actors[peer].means[name])
                except WireError:
                    self.figures["damaged means"] += 1
                    continue
                self.figures["means taken"] += 1
                return actor.means[name]
        self.figures["slices of others"] += 1
        return self.reduced(actor, choice, number)

    def served(self, mean: Sections) -> Sections:
        """A mean as it arrives, with the table that its maker has of it. Raises WireError."""
        body = bytearray(b"".join(mean))
        if self.random.random() < DAMAGED:
            body[self.random.randrange(len(body))] ^= 1
        found = Table.of(mean).split(0, len(mean), body)
        return tuple(bytes(part) for part in found)

    def reduced(self, actor: Actor, choice: Choice, number: int) -> Sections:
        """The mean, of contributions that are in reach. Raises Missing."""
        near = [self.actors[p] for p in sorted(self.actors) if self.reaches(actor.peer, p)]
        held = {digest for other in near for digest in other.payloads}
        missing = tuple(entry.island for entry in choice.counted if entry.digest not in held)
        if missing:
            raise Missing(missing)
        mean = mean_of(choice, *bounds(choice.slices)[number])
        actor.means[mean_name(choice, number)] = mean
        return mean

    # ---- the judge ------------------------------------------------------------------------------------------------

    def judge(self, actor: Actor, choice: Choice) -> None:
        if choice.result != due(actor.machine.base, choice):
            raise Violation(f"round {actor.machine.round} came to what is not the mean")
        try:
            check(choice, SECTIONS) if choice.slices else None
        except StateError as error:
            raise Violation(str(error)) from None
        self.figures["sliced rounds"] += bool(choice.slices)
        super().judge(actor, choice)
