"""A coordinator and peers that join by hand, beside volunteers who get everything wrong (issue items 2 and 5).

One healthy run stands while bad volunteers come and raw clients send nonsense to its ports; then it trains while the
nonsense goes on, and must end with the reference's parameters.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch

from swarmtrain import __version__
from swarmtrain.core.config import RunConfig, load_config
from swarmtrain.core.errors import LinkClosed, LinkError, Refused, SwarmError
from swarmtrain.core.types import PeerId
from swarmtrain.data.stream import load_corpus
from swarmtrain.peer.asking import ask
from swarmtrain.peer.joining import kernel_class
from swarmtrain.steps.keys import first_base
from swarmtrain.transport.frames import Frame, Kind, pack
from swarmtrain.transport.grpc_pipe import DiallerPipe
from swarmtrain.transport.grpc_transport import GrpcTransport
from swarmtrain.transport.link import PROTOCOL, Hello, Link, LinkLimits, Message
from swarmtrain.transport.messages import encode
from swarmtrain.transport.requests import Description, ProcessRequest
from swarmtrain.wire.tensors import encode_tensor
from tests.integration.processes import (
    SMALL_RUN,
    Command,
    Workplace,
    events_in,
    lines_of,
    read_json,
    until,
)

# Many keys a step and few in flight: the first step lasts long enough to meddle with.
HEALTHY_RUN = (
    SMALL_RUN.replace("steps = 20", "steps = 15").replace("microbatches = 6", "microbatches = 24")
    + "\n[limits]\nin_flight = 2\n\n[swarm]\nmin_peers = 3\n"
)
BAD_EXIT_SECONDS = 60.0
ROUNDS_A_LINK = 25
"""So often a false client repeats its calls, within a second or so, before it dials again."""

pytestmark = pytest.mark.timeout(240)


# ---- clients that misbehave -----------------------------------------------------------------------------------------


class Meddler:
    """Sends nonsense to the given addresses from a thread of its own until `stop`."""

    def __init__(self, config: RunConfig, peers: tuple[str, ...], coordinator: str) -> None:
        self.config, self.peers, self.coordinator = config, peers, coordinator
        self.done: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._meddle()))
        self._corpus = load_corpus(config.data, None).digest

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    async def _meddle(self) -> None:
        addresses = (*self.peers, self.coordinator)
        work = [self._repeat(self._raw_bytes, address) for address in addresses]
        work += [self._repeat(self._garbage_frames, address) for address in addresses]
        work += [self._repeat(self._oversized_frames, address) for address in addresses]
        work += [self._false_work(address) for address in self.peers]
        await asyncio.gather(*work)

    async def _repeat(self, nonsense: Any, address: str) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(LinkError, OSError, TimeoutError):
                async with asyncio.timeout(3.0):
                    await nonsense(address)
            await asyncio.sleep(0.3)

    async def _raw_bytes(self, address: str) -> None:
        """Bytes that are not even HTTP/2, then a connection held open."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(hashlib.shake_256(b"noise").digest(100_000))
        await writer.drain()
        self.done["raw bytes"] += 1
        await reader.read()
        writer.close()

    async def _garbage_frames(self, address: str) -> None:
        pipe = DiallerPipe(grpc.aio.insecure_channel(address))
        await pipe.send(hashlib.shake_256(address.encode()).digest(5000))
        self.done["garbage frames"] += 1
        await self._until_end(pipe)

    async def _oversized_frames(self, address: str) -> None:
        """A valid greeting, then a message that claims more bytes than any may have."""
        pipe = DiallerPipe(grpc.aio.insecure_channel(address))
        await pipe.send(pack(Frame(Kind.HELLO, meta=encode(self._hello("boaster")))))
        await pipe.receive()
        huge = Frame(
            Kind.REQUEST, call=1, method="process", body_bytes=1 << 50, note_milliseconds=100
        )
        await pipe.send(pack(huge))
        with contextlib.suppress(LinkError):
            await pipe.send(bytes(8 << 20))
        self.done["oversized frames"] += 1
        await self._until_end(pipe)

    async def _until_end(self, pipe: DiallerPipe) -> None:
        """The other side must hang up by itself."""
        with contextlib.suppress(LinkError):
            while True:
                await pipe.receive()
        self.done["hung up"] += 1

    async def _false_work(self, address: str) -> None:
        """Calls of the first step with a wrong shape and with a wrong digest, from a client that greeted well.

        It dials again and again, also when a link ends: who stands still for three heartbeats, as on a busy machine
        this process may, has lost its links.
        """
        # Under a name of its own, so that nothing the boaster does can cost it its link.
        hello = self._hello("meddler")
        while not self._stop.is_set():
            transport = GrpcTransport(LinkLimits())
            try:
                link = await transport.dial(address, hello, _Silent(hello), 10.0)
                for _ in range(ROUNDS_A_LINK):
                    await self._false_calls(link)
                    await asyncio.sleep(0.02)
            except LinkError as error:
                self.done[f"work ended: {error.what} ({error.why})"] += 1
                await asyncio.sleep(0.3)
            finally:
                await transport.close()

    async def _false_calls(self, link: Link) -> None:
        """Every bad call once. Raises LinkClosed."""
        results = await asyncio.gather(
            *(self._call(link, *bad) for bad in self._bad_calls()), return_exceptions=True
        )
        for result in results:
            if isinstance(result, LinkClosed):
                raise result
            self.done[str(getattr(result, "what", result))] += 1

    def _bad_calls(self) -> list[tuple[ProcessRequest, Any]]:
        train, width = self.config.train, self.config.model.width
        whole = torch.zeros(train.microbatch_size, train.sequence_length, width)
        header, payload = encode_tensor(whole, "none", 0)
        small_header, small = encode_tensor(whole[:, :-1], "none", 0)
        lie = replace(header, digest=bytes(16))
        bad = ((small_header, small), (lie, payload))
        return [
            (self._request(position, key, tensor), body)
            for position in (1, 2)
            for key in (22, 23)
            for tensor, body in bad
        ]

    def _request(self, position: int, key: int, tensor: Any) -> ProcessRequest:
        base = first_base(bytes.fromhex(self.config.hash))
        return ProcessRequest(0, base, 1, key, position, (), 0, tensor)

    async def _call(self, link: Link, request: ProcessRequest, body: Any) -> str:
        message = Message(request.encode(), body)
        await link.call("process", message, silence_seconds=10.0, deadline_seconds=60.0)
        return "answered"

    def _hello(self, name: str) -> Hello:
        return Hello(
            PROTOCOL, __version__, bytes.fromhex(self.config.hash), PeerId(name),
            self._corpus, kernel_class(1), "", "peer",
        )  # fmt: skip


class _Silent:
    """The handler of a client that serves nothing."""

    def __init__(self, greeting: Hello) -> None:
        self._greeting = greeting

    def hello(self) -> Hello:
        return self._greeting

    def check(self, hello: Hello) -> None:
        """Whoever answers will do."""

    async def call(self, link: Link, method: str, request: Message) -> Message:
        raise Refused("nothing is served here")

    def tell(self, link: Link, method: str, meta: bytes) -> None:
        """Nothing is listened to."""

    def opened(self, link: Link) -> None:
        """Nothing to do."""

    def closed(self, link: Link, reason: str) -> None:
        """Nothing to do."""


class _Describer(_Silent):
    """A process that claims to be a coordinator of any run one likes."""

    description: Description

    def check(self, hello: Hello) -> None:
        assert hello.role == "query"

    async def call(self, link: Link, method: str, request: Message) -> Message:
        return Message(self.description.encode())


@contextlib.contextmanager
def describing(config: RunConfig) -> Iterator[str]:
    """The address of a process that describes a run of `config`."""
    address: list[str] = []
    ending: list[Callable[[], object]] = []
    ready = threading.Event()

    async def serve() -> None:
        run = bytes.fromhex(config.hash)
        greeting = Hello(PROTOCOL, __version__, run, PeerId("describer"), "", "", "", "coordinator")
        handler = _Describer(greeting)
        transport = GrpcTransport(LinkLimits())
        address.append(await transport.listen("127.0.0.1:0", handler))
        handler.description = Description(
            __version__,
            config.to_json(),
            run,
            ("/ip4/127.0.0.1/tcp/1/p2p/x",),
            tuple(address),
            "",
            "",
        )
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        ending.append(partial(loop.call_soon_threadsafe, stop.set))
        ready.set()
        await stop.wait()
        await transport.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(20)
    try:
        yield address[0]
    finally:
        ending[0]()
        thread.join(20)


# ---- the healthy run and what happened beside it --------------------------------------------------------------------


@dataclass(slots=True)
class Story:
    """What is left of the healthy run and of those who disturbed it."""

    out: Path
    status: dict[str, Any]
    coordinator: Command
    peers: list[Command]
    bad: dict[str, Command]
    meddler: Meddler
    expected_sha256: str


def bad_volunteers(place: Workplace, coordinator: str) -> dict[str, Command]:
    """All at once: each is a process of its own."""
    other = place.write("other.toml", SMALL_RUN.replace("seed = 7", "seed = 8"))
    no_corpus = place.write("corpus.toml", SMALL_RUN + '\n[data]\nsource = "text:/nonexistent"\n')
    join = ("peer", "--join", coordinator)
    return {
        "other config": place.start(*join, "--config", other, name="other-config"),
        "no corpus": place.start("reference", no_corpus, name="no-corpus"),
        "no corpus peer": place.start(*join, "--config", no_corpus, name="no-corpus-peer"),
        "port in use": place.start(*join, "--listen", coordinator, name="port-in-use"),
        "dead address": place.start("peer", "--join", "127.0.0.1:1", name="dead-address"),
        "no address": place.start("peer", "--join", "nonsense", name="no-address"),
        "bad stage": place.start(*join, "--stage", "2:1", name="bad-stage"),
        "stage that is not": place.start(*join, "--stage", "7", name="stage-7"),
    }


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    place = Workplace(tmp_path_factory.mktemp("volunteers"))
    meddler = None
    try:
        run_file, out = place.write("run.toml", HEALTHY_RUN), place.folder / "out"
        yardstick = place.start("reference", run_file, "--out", place.folder / "reference")
        arguments = ("coordinator", run_file, "--listen", "127.0.0.1:0", "--out", out)
        coordinator = place.start(*arguments, name="coordinator")
        address = coordinator.until_prints("swarmtrain peer --join")
        join = ("peer", "--join", address)
        peers = [
            place.start(*join, "--stage", "0:1", "--name", "pinned", name="pinned"),
            place.start(*join, "--stage", "2", "--name", "last", name="last"),
        ]
        until(lambda: len(events_in(out, "peer_joined")) == 2, 60, "two peers joined")
        bad = bad_volunteers(place, address)
        for command in bad.values():
            command.wait(BAD_EXIT_SECONDS)
        assert [command.process.poll() for command in (coordinator, *peers)] == [None] * 3
        shown = place.run("status", address, "-o", "json", seconds=30)
        status = read_json(shown.output_path)
        addresses = {view["name"]: view["address"] for view in status["peers"]}
        config = load_config([run_file])
        meddler = Meddler(config, (addresses["pinned"], addresses["last"]), address)
        meddler.start()
        third = ("peer", "--join", addresses["last"], "--name", "through-a-peer")
        peers.append(place.start(*third, name="through-a-peer"))
        place.note_ports()
        assert coordinator.wait(200) == 0, coordinator.output
        for command in peers:
            command.wait(30)
        meddler.stop()
        place.expect_nothing_left(5)
        assert yardstick.wait(30) == 0, yardstick.output
        expected = read_json(place.folder / "reference" / "summary.json")["parameters_sha256"]
        yield Story(out, status, coordinator, peers, bad, meddler, expected)
    finally:
        if meddler is not None:
            meddler._stop.set()
        place.close()


def test_the_healthy_run_ends_with_the_parameters_of_the_reference(story: Story):
    summary = read_json(story.out / "summary.json")
    assert summary["finished"] and summary["steps"] == 15
    assert summary["parameters_sha256"] == story.expected_sha256
    assert len(lines_of(story.out / "metrics.jsonl")) == 15
    assert len(list((story.out / "checkpoint").iterdir())) == 1


def test_every_healthy_process_ends_well(story: Story):
    assert [peer.process.returncode for peer in story.peers] == [0, 0, 0]
    assert "ended after step 15: the last step is committed" in story.peers[0].output


def test_pinned_stages_are_kept_and_auto_takes_what_helps(story: Story):
    joined = {event["peer"]: event["name"] for event in events_in(story.out, "peer_joined")}
    placed = {joined[event["peer"]]: event["stages"] for event in events_in(story.out, "placed")}
    assert placed["pinned"] == [0, 1] and placed["last"] == [2]
    assert placed["through-a-peer"], "the third peer joined through another peer and serves"


def test_status_names_the_run_and_its_peers(story: Story):
    status = story.status
    assert (status["run"], status["step"], status["steps"]) == ("small", 0, 15)
    assert not status["stopped"]
    views = {view["name"]: view for view in status["peers"]}
    assert views.keys() == {"pinned", "last"}
    assert views["pinned"]["stages"] == [0, 1]


@pytest.mark.parametrize(
    ("name", "exit_code", "what", "why", "remedy"),
    [
        (
            "other config",
            4,
            "your configuration is not the run's",
            "it hashes to",
            "leave --config out",
        ),
        ("no corpus", 1, "/nonexistent", "", ""),
        ("no corpus peer", 4, "your configuration is not the run's", "it hashes to", "--config"),
        ("port in use", 3, "cannot listen on 127.0.0.1:", "is in use", "choose another port"),
        ("dead address", 3, "cannot reach 127.0.0.1:1", "", "check the address"),
        ("no address", 3, "'nonsense' is not an address", "a host and a port", "host:port"),
        (
            "bad stage",
            2,
            "--stage '2:1' names no stages",
            "it is neither auto",
            "write auto, 3, or 1:3",
        ),
        ("stage that is not", 2, "this run has no stage 7", "1 to 2", "choose --stage among"),
    ],
)
def test_a_bad_volunteer_hears_what_why_and_what_to_do(
    story: Story, name: str, exit_code: int, what: str, why: str, remedy: str
):
    command = story.bad[name]
    assert f"error: {what}" in command.output or what in command.output, command.output
    assert why in command.output and remedy in command.output, command.output
    assert "Traceback" not in command.output
    assert command.process.returncode == exit_code, command.output


def test_nonsense_costs_its_sender_alone(story: Story):
    """Raw bytes, garbage frames and absurd sizes came during the run; the senders were hung up on."""
    done = story.meddler.done
    for kind in ("raw bytes", "garbage frames", "oversized frames", "hung up"):
        assert done[kind] >= 3, done


def test_false_work_is_refused_and_told(story: Story):
    """A wrong shape and a wrong digest by a client with a valid greeting: refused, and in the journal."""
    done = story.meddler.done
    closings = [e["reason"] for e in events_in(story.out, "link_closed") if e["peer"] == "meddler"]
    assert len(closings) >= 2 * len(story.meddler.peers), (done, closings)
    assert any("shape is not what was expected" in what for what in done), (done, closings)
    assert any("digest is not what was expected" in what for what in done), (done, closings)
    told = [event for event in events_in(story.out, "bad_message") if event["peer"] == "meddler"]
    assert any("shape" in event["reason"] for event in told)
    assert any("digest" in event["reason"] for event in told)


# ---- what a run from the network may not choose ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "what", "why"),
    [
        (
            'data.source="text:/etc/hostname"',
            "this run reads files of the machine",
            "text:/etc/hostname",
        ),
        ('data.tokenizer="/etc/hostname"', "this run reads files of the machine", "/etc/hostname"),
        ('model.family="os:system"', "this run brings code of its own", "os:system"),
    ],
)
def test_a_run_from_the_network_may_not_name_paths_or_code(
    workplace: Workplace, setting: str, what: str, why: str
):
    run_file = workplace.write("run.toml", SMALL_RUN)
    with describing(load_config([run_file], [setting])) as address:
        done = workplace.run("peer", "--join", address, seconds=40)
    assert done.process.returncode == 1
    assert f"error: {what}" in done.output and why in done.output and "do:" in done.output
    workplace.expect_nothing_left()


def test_a_corpus_that_this_machine_has_not_is_said_plainly(workplace: Workplace):
    """The right configuration, but the text it names is not here."""
    settings = SMALL_RUN + '\n[data]\nsource = "text:/nonexistent"\n'
    run_file = workplace.write("run.toml", settings)
    with describing(load_config([run_file])) as address:
        done = workplace.run("peer", "--join", address, "--config", run_file, seconds=40)
    assert done.process.returncode == 1
    assert "error: there is no text at /nonexistent" in done.output and "do:" in done.output
    workplace.expect_nothing_left()


@pytest.mark.parametrize("answer", [pytest.param("silence", marks=pytest.mark.slow), "noise"])
def test_an_address_that_is_no_swarmtrain_is_given_up_in_time(workplace: Workplace, answer: str):
    """Something listens there and never speaks, or speaks something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        if answer == "noise":
            threading.Thread(target=_noise, args=(server,), daemon=True).start()
        port = server.getsockname()[1]
        where = ("--join", f"127.0.0.1:{port}", "--join-timeout", "10s")
        done = workplace.run("peer", *where, seconds=40)
    assert done.process.returncode == 3
    assert answer == "silence" or f"127.0.0.1:{port}; trying again in" in done.output
    assert f"error: cannot reach 127.0.0.1:{port}" in done.output and "do:" in done.output
    workplace.expect_nothing_left()


def test_ctrl_c_while_nobody_answers_ends_cleanly(workplace: Workplace):
    peer = workplace.start("peer", "--join", "127.0.0.1:1", "--join-timeout", "1h")
    peer.until_prints("cannot reach 127.0.0.1:1; trying again in")
    peer.signal(2)
    assert peer.wait(20) == 130, peer.output
    assert "Traceback" not in peer.output
    workplace.expect_nothing_left()


def _noise(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            connection.sendall(os.urandom(1000))
            connection.close()


def test_a_coordinator_answers_a_query_with_its_address(workplace: Workplace):
    run_file = workplace.write("run.toml", SMALL_RUN)
    arguments = ("--listen", "127.0.0.1:0", "--out", workplace.folder / "out")
    coordinator = workplace.start("coordinator", run_file, *arguments)
    address = coordinator.until_prints("swarmtrain peer --join")
    description = Description.decode(asyncio.run(ask(address, "describe", 10.0)).meta)
    assert description.addresses == (address,)
    assert json.loads(description.config_json)["run"]["name"] == "small"
    with pytest.raises(SwarmError):
        asyncio.run(ask(address, "process", 10.0))
    coordinator.signal(2)
    assert coordinator.wait(20) == 130, coordinator.output
    workplace.expect_nothing_left()
