"""A peer under its volunteer's terms, in virtual time: it leaves and comes back, and the run never notices."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from swarmtrain.core.errors import BadAddress, Incompatible, LinkError
from swarmtrain.core.events import Event, MembershipChanged, Noted, Replayed
from swarmtrain.core.pauses import Paused, Resumed
from swarmtrain.core.types import PeerId
from swarmtrain.experiments.machines import MachineLoop, on_machine
from swarmtrain.experiments.virtual import Scenario, Stage, VirtualPeer, VirtualRun, play
from swarmtrain.peer.joining import JoinedPeer
from swarmtrain.peer.session import Outcome, Session
from swarmtrain.peer.state_folder import StateFolder, ask_for, read_status
from swarmtrain.peer.volunteer import (
    LEAST_PATIENCE_SECONDS,
    LONE_LINGER_SECONDS,
    MOST_REDIAL_SECONDS,
    UNREACHED,
    Steps,
    Told,
    Volunteer,
)
from swarmtrain.plan.terms import DAY_SECONDS, Hours, LocalTime, Machine, Request, Terms
from swarmtrain.recovery.dealing import pace_of
from swarmtrain.recovery.transfer import fetch_stage
from swarmtrain.transport.caps import Caps, UploadCap
from tests.experiments.runs import corpus, known_reference, small_config
from tests.transport.test_caps import TOLERANCE, WINDOW_SECONDS
from tests.transport.test_caps import Counter as Window

CONFIG = small_config(steps=16)
FLEET = (
    VirtualPeer("one-b", (1,)),
    VirtualPeer("edge-a", (0,)),
    VirtualPeer("edge-b", (0,)),
    VirtualPeer("one-a", (1,)),
    VirtualPeer("two-a", (2,)),
    VirtualPeer("two-b", (2,)),
)
CALM = Scenario(FLEET)
NAME = "volunteer"
PATIENCE_SECONDS = 600.0
DAY_BYTES = 3_000_000
UPLOAD_BYTES_PER_SECOND = 150_000.0
NO_TERMS = Terms()


@dataclass
class Place:
    """A machine that moved `more_bytes` besides; its midnight comes `to_midnight_seconds` after the run's beginning."""

    to_midnight_seconds: float = 43200.0
    more_bytes: int = 0

    def now(self) -> LocalTime:
        wall = asyncio.get_running_loop().time() + DAY_SECONDS - self.to_midnight_seconds
        return LocalTime(f"day {int(wall // DAY_SECONDS)}", wall % DAY_SECONDS)

    def look(self, request: Request, transfer_bytes: int, step_bytes: int) -> Machine:
        moved_bytes = transfer_bytes + self.more_bytes
        return Machine(self.now(), request, transfer_bytes=moved_bytes, step_bytes=step_bytes)


class Moved:
    """Counts what the volunteer's lines carry both ways, by its day."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.bytes_by_day: Counter[str] = Counter()
        self.sent = Window()

    def tap(self, sender: str, receiver: str) -> "_Tap | None":
        return _Tap(self, sender == NAME) if NAME in (sender, receiver) else None

    def saw(self, frame: bytes) -> None:
        self.bytes_by_day[self._place.now().day] += len(frame)


class _Tap:
    def __init__(self, moved: Moved, is_sending: bool) -> None:
        self._moved, self._is_sending = moved, is_sending

    def sent(self, frame: bytes) -> list[tuple[float, bytes]]:
        self._moved.saw(frame)
        return self._moved.sent.sent(frame) if self._is_sending else [(0.0, frame)]

    def received(self, frame: bytes) -> None:
        """Leaving is what counts."""


@dataclass
class Guest:
    """The volunteer in a virtual world, and what a test sees of it."""

    stage: Stage
    place: Place
    folder: StateFolder
    terms: Terms
    volunteer: Volunteer = field(init=False)
    serving: "asyncio.Task[Outcome]" = field(init=False)
    sessions: list[Session] = field(default_factory=list)

    def __post_init__(self) -> None:
        peer = VirtualPeer(NAME, (1,))

        async def join() -> JoinedPeer:
            session = on_machine(NAME, lambda: self.stage._session(peer))
            self.sessions.append(session)
            return JoinedPeer(session, None, None, None, None, self.record)

        told = Told(PeerId(NAME), NAME, 1, self.record)
        self.volunteer = Volunteer(self.terms, join, self.place, self.folder, told)
        self.serving = asyncio.create_task(self.volunteer.serve())
        # The world waits for it as for all others.
        self.stage._running[NAME] = self.serving
        self.serving.add_done_callback(lambda _: self.stage._changed.set())

    @property
    def record(self) -> Callable[..., None]:
        return self.stage.record_for(PeerId(NAME), NAME)

    def ask(self, request: Request) -> None:
        ask_for(self.folder.path, request)

    async def until_in(self, stay: int = 1) -> None:
        """Until it serves, for the `stay`-th time."""
        await self.until(lambda: len(self.sessions) == stay and self.sessions[-1].is_in_roster)

    async def until_doing(self, what: str) -> None:
        await self.until(
            lambda: (s := read_status(self.folder.path)) is not None and s.doing == what
        )

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():  # noqa: ASYNC110 (virtual time)
            await asyncio.sleep(0.1)


Script = Callable[[Guest], Awaitable[None]]


def run_with(
    folder: Path,
    script: Script,
    terms: Terms = NO_TERMS,
    place: Place | None = None,
    caps: Caps | None = None,
    scenario: Scenario = CALM,
) -> tuple[VirtualRun, Moved]:
    """A run that a volunteer joins at 2 s; `script` acts from then on."""
    place = place or Place()
    moved, state = Moved(place), StateFolder(folder)
    acting: list[asyncio.Task[None]] = []

    def begin(stage: Stage) -> "asyncio.Task[None]":
        stage.network.tap = moved.tap  # type: ignore[assignment]
        if caps is not None:
            stage.network.caps[NAME] = caps

        async def act() -> None:
            await asyncio.sleep(2.0)
            await script(Guest(stage, place, state, terms))

        acting.append(asyncio.create_task(act()))
        return acting[0]

    async def main() -> VirtualRun:
        async with asyncio.timeout(PATIENCE_SECONDS):
            run = await play(CONFIG, scenario, corpus(), begin)
        await acting[0]
        return run

    try:
        with asyncio.Runner(loop_factory=MachineLoop) as runner:
            return runner.run(main()), moved
    finally:
        state.close()


def expect_same_curve(run: VirtualRun) -> None:
    yardstick = known_reference(CONFIG)
    assert not run.errors
    assert [commit.loss for commit in run.commits] == list(yardstick.losses)
    assert run.commits[-1].parameters_sha256 == yardstick.parameters_sha256


def of_kind(run: VirtualRun, kind: type) -> list:
    return [event for _, _, event in run.events if isinstance(event, kind)]


def test_a_pause_replays_nothing_and_ends_as_the_same_peer(tmp_path: Path) -> None:
    async def script(guest: Guest) -> None:
        await guest.until_in()
        guest.ask("pause")
        await guest.until_doing("paused")
        records = [entry.peer for entry in guest.stage.sessions["edge-a"].placing.records]
        await asyncio.sleep(2.0)
        now = [entry.peer for entry in guest.stage.sessions["edge-a"].placing.records]
        me = guest.stage.names[NAME]
        assert me not in now, (records, now)
        guest.ask("serve")
        await guest.until_in(2)
        assert [session.options.me for session in guest.sessions] == [me, me]

    run, moved = run_with(tmp_path, script)
    expect_same_curve(run)
    # What the caps below hold back.
    assert moved.bytes_by_day["day 0"] > 1.5 * DAY_BYTES
    assert moved.sent.busiest_bytes() > 1.5 * UPLOAD_BYTES_PER_SECOND * WINDOW_SECONDS
    assert run.outcomes[NAME].finished
    assert not of_kind(run, Replayed)
    assert [event.resumes for event in of_kind(run, Paused)] == ["after swarmtrain resume"]
    assert [event.seconds >= 2.0 for event in of_kind(run, Resumed)] == [True]
    changes = [event.reason.split()[0] for event in of_kind(run, MembershipChanged)]
    assert changes == ["joins", "leaves", "joins"]


def test_finish_leaves_after_the_step_and_does_not_come_back(tmp_path: Path) -> None:
    async def script(guest: Guest) -> None:
        await guest.until_in()
        guest.ask("finish")
        outcome = await guest.serving
        assert not outcome.finished and guest.volunteer.has_left

    run, _ = run_with(tmp_path, script)
    expect_same_curve(run)
    assert not of_kind(run, Replayed) and not of_kind(run, Paused)
    assert len(of_kind(run, MembershipChanged)) == 2


def test_a_spent_day_pauses_until_midnight(tmp_path: Path) -> None:
    """What lines carry of a day stays under its cap, counted below the links; the next day it serves again."""
    place, cap_bytes = Place(to_midnight_seconds=9.0), DAY_BYTES

    async def script(guest: Guest) -> None:
        await guest.until_doing("paused")
        assert place.now().day == "day 0"
        status = read_status(tmp_path)
        assert status is not None and status.resumes.startswith("at midnight")
        await guest.until_in(2)
        assert place.now().day == "day 1"

    run, moved = run_with(tmp_path, script, Terms(daily_transfer_bytes=cap_bytes), place)
    expect_same_curve(run)
    assert not of_kind(run, Replayed)
    assert 0.5 * cap_bytes <= moved.bytes_by_day["day 0"] <= TOLERANCE * cap_bytes
    assert moved.bytes_by_day["day 1"] > 0
    assert "were transferred today" in of_kind(run, Paused)[0].reason


def test_a_swarm_trains_on_with_an_upload_cap_that_holds(tmp_path: Path) -> None:
    async def script(guest: Guest) -> None:
        await guest.until_in()

    caps = Caps(upload=UploadCap(UPLOAD_BYTES_PER_SECOND))
    run, moved = run_with(tmp_path, script, caps=caps)
    expect_same_curve(run)
    busiest_bytes = moved.sent.busiest_bytes()
    assert busiest_bytes <= TOLERANCE * UPLOAD_BYTES_PER_SECOND * WINDOW_SECONDS


def test_serves_within_its_hours_only(tmp_path: Path) -> None:
    """Hours that begin 6 s and end 12 s after the run's beginning, around a midnight in between."""
    place = Place(to_midnight_seconds=10.0)
    hours = Hours(DAY_SECONDS - 4.0, 4.0)
    seen: list[float] = []

    async def script(guest: Guest) -> None:
        loop = asyncio.get_running_loop()
        await guest.until_in()
        seen.append(loop.time())
        await guest.until_doing("paused")
        seen.append(loop.time())

    run, _ = run_with(tmp_path, script, Terms(hours=hours), place)
    expect_same_curve(run)
    assert 6.0 <= seen[0] <= 12.0 and 14.0 <= seen[1] <= 18.0
    assert of_kind(run, Paused)[0].resumes.startswith("at 23:59")


@pytest.mark.parametrize("is_spent", [False, True])
def test_who_holds_a_stage_alone_is_let_go_in_bounded_time(tmp_path: Path, is_spent: bool) -> None:
    """Nobody takes over, so nobody lets it leave between two steps; its machine is the volunteer's all the same.

    A pause waits for the end of a step or two, a day that is spent for nothing.
    """
    place, terms = Place(), Terms(daily_transfer_bytes=10**12)

    async def script(guest: Guest) -> None:
        await guest.until_in()
        for name in ("one-a", "one-b"):
            guest.stage.drain(name, "asked to")
            await guest.stage.sessions[name].outcome
        begin_seconds = asyncio.get_running_loop().time()
        if is_spent:
            place.more_bytes = 10**12
        else:
            guest.ask("pause")
        await guest.until_doing("paused")
        waited_seconds = asyncio.get_running_loop().time() - begin_seconds
        if is_spent:
            assert waited_seconds < 5.0
        else:
            assert LEAST_PATIENCE_SECONDS <= waited_seconds <= 3 * LEAST_PATIENCE_SECONDS
        place.more_bytes = 0
        guest.ask("serve")

    slow = replace(CALM, forward_seconds=0.5, backward_seconds=1.0)
    run, _ = run_with(tmp_path, script, terms, place, scenario=slow)
    noted = [event.what for event in of_kind(run, Noted)]
    assert ("left within a step" in noted) != is_spent


@pytest.mark.parametrize("when", ["in the run", "after its end"])
def test_who_was_asked_to_finish_still_hands_over_what_it_alone_holds(
    tmp_path: Path, when: str
) -> None:
    """The run ends before anybody could take over: without this stage there is no final checkpoint."""

    async def script(guest: Guest) -> None:
        await guest.until_in()
        for name in ("one-a", "one-b"):
            guest.stage.drain(name, "asked to")
            await guest.stage.sessions[name].outcome
        session = guest.sessions[-1]
        if when == "in the run":
            guest.volunteer.finish("interrupted")
        assert (await session.outcome).finished
        if when == "after its end":
            guest.volunteer.finish("interrupted")
        # As the coordinator would ask it, once all have reported the end.
        await asyncio.sleep(0.5 * LONE_LINGER_SECONDS)
        assert not guest.serving.done()
        edge = guest.stage.sessions["edge-a"]
        state = await fetch_stage(
            [await edge.links.to(session.options.me)], 1, CONFIG.run.steps, pace_of(CONFIG.links)
        )
        assert state.step == CONFIG.run.steps
        begin_seconds = asyncio.get_running_loop().time()
        await guest.serving
        assert asyncio.get_running_loop().time() - begin_seconds <= LONE_LINGER_SECONDS
        assert guest.volunteer.has_left

    run, _ = run_with(tmp_path, script)
    expect_same_curve(run)


@pytest.mark.parametrize("is_leaving", [False, True])
def test_who_is_asked_for_its_last_contribution_stays_unless_it_is_to_go(
    is_leaving: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another island's line may be slower than this one's."""
    asked_seconds = 10 * LONE_LINGER_SECONDS
    found: list[float] = []

    async def script(guest: Guest) -> None:
        await guest.until_in()
        session, loop = guest.sessions[-1], asyncio.get_running_loop()
        await session.outcome
        end_seconds = loop.time()

        def served_bytes(_: Session) -> int:
            return int(min(loop.time() - end_seconds, asked_seconds))

        monkeypatch.setattr(Session, "served_bytes", property(served_bytes))
        if is_leaving:
            guest.volunteer.finish("interrupted")
        await guest.serving
        found.append(loop.time() - end_seconds)

    run_with(tmp_path, script)
    whole_seconds = LONE_LINGER_SECONDS + (0 if is_leaving else asked_seconds)
    assert abs(found[0] - whole_seconds) <= 1.0


# ---- nobody answers yet ---------------------------------------------------------------------------------------------

JOIN_SECONDS = 20.0
NOBODY = LinkError("cannot reach a:1", "connection refused")


class Served(Exception):
    """Somebody answered."""


@dataclass
class Stranger:
    """A volunteer whose `tries`-th try meets `end`, and all before it `NOBODY`."""

    folder: Path
    end: Exception
    tries: int = 10_000
    at_seconds: list[float] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)

    async def join(self) -> JoinedPeer:
        self.at_seconds.append(asyncio.get_running_loop().time())
        raise self.end if len(self.at_seconds) >= self.tries else NOBODY

    def serve(self, act: Callable[[Volunteer], None] | None = None) -> Outcome:
        """From start to end in virtual time; `act` comes half a second after the second try."""
        state = StateFolder(self.folder)

        async def main() -> Outcome:
            told = Told(PeerId(NAME), NAME, 1, self.told.append)
            volunteer = Volunteer(NO_TERMS, self.join, Place(), state, told, JOIN_SECONDS)
            if act is not None:
                asyncio.get_running_loop().call_later(1.5, act, volunteer)
            return await volunteer.serve()

        try:
            with asyncio.Runner(loop_factory=MachineLoop) as runner:
                return runner.run(main())
        finally:
            state.close()


def test_a_first_join_that_finds_nobody_tries_again_and_counts_down(tmp_path: Path) -> None:
    stranger = Stranger(tmp_path, Served(), tries=4)
    with pytest.raises(Served):
        stranger.serve()
    assert stranger.at_seconds == pytest.approx([0.0, 1.0, 3.0, 7.0])
    assert [(event.what, event.detail) for event in stranger.told if isinstance(event, Noted)] == [
        (UNREACHED, "cannot reach a:1; trying again in 1 s, for 20 s more"),
        (UNREACHED, "cannot reach a:1; trying again in 2 s, for 19 s more"),
        (UNREACHED, "cannot reach a:1; trying again in 4 s, for 17 s more"),
    ]


def test_it_gives_up_in_time_with_the_last_reason(tmp_path: Path) -> None:
    stranger = Stranger(tmp_path, Served())
    with pytest.raises(LinkError, match="connection refused"):
        stranger.serve()
    pauses = [b - a for a, b in zip(stranger.at_seconds, stranger.at_seconds[1:], strict=False)]
    assert stranger.at_seconds[-1] == pytest.approx(JOIN_SECONDS)
    assert len(pauses) >= JOIN_SECONDS / MOST_REDIAL_SECONDS
    assert max(pauses) <= MOST_REDIAL_SECONDS + 1e-6


@pytest.mark.parametrize("error", [Incompatible("another version"), BadAddress("'x' is none")])
def test_a_clear_no_ends_at_once(tmp_path: Path, error: LinkError) -> None:
    stranger = Stranger(tmp_path, error, tries=2)
    with pytest.raises(type(error)):
        stranger.serve()
    assert stranger.at_seconds == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("how", ["Ctrl+C", "another terminal"])
def test_who_waits_for_the_run_can_be_told_to_end(tmp_path: Path, how: str) -> None:
    stranger = Stranger(tmp_path, Served())

    def end(volunteer: Volunteer) -> None:
        if how == "Ctrl+C":
            volunteer.finish("interrupted")
        else:
            ask_for(tmp_path, "finish")

    assert not stranger.serve(end).finished
    assert stranger.at_seconds == pytest.approx([0.0, 1.0]), "no try came after it"


def test_a_step_is_timed_and_weighed_from_one_step_to_the_next() -> None:
    steps = Steps()
    steps.see(0, 1.0, 100)
    steps.see(5, 50.0, 10_000)
    assert (steps.longest_seconds, steps.most_bytes) == (0.0, 0), "what joining took is no step"
    steps.see(6, 52.0, 10_500)
    steps.see(8, 58.0, 10_900)
    assert (steps.longest_seconds, steps.most_bytes) == (3.0, 500)
    steps.begin()
    steps.see(20, 900.0, 99_000)
    assert (steps.longest_seconds, steps.most_bytes) == (3.0, 500)
