"""An HTTP server inside the running event loop: small pages and figures for people who watch.

Nothing that trains waits for it: handlers only read, and what a reader does not take in is not kept for it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from swarmtrain.core.errors import ConfigError

START_SECONDS = 10.0
GOODBYE_SECONDS = 2
MOST_CONNECTIONS = 256


class _Server(uvicorn.Server):
    """Says when it listens. Signals belong to the process, not to its page."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """An app at `url` until `close`."""

    def __init__(self, server: _Server, task: "asyncio.Task[None]", url: str) -> None:
        self._server, self._task, self.url = server, task, url

    @staticmethod
    async def open(app: ASGIApp, address: str) -> "HttpServer":
        """Serve `app` at `address`, host:port; port 0 takes a free one.

        Raises ConfigError when the address is none, or taken.
        """
        host, port = parse_address(address)
        sock = _listen(host, port)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[sock]), name="http")
        async with asyncio.timeout(START_SECONDS):
            await server.listening.wait()
        shown = f"[{host}]" if ":" in host else host
        return HttpServer(server, task, f"http://{shown}:{sock.getsockname()[1]}/")

    async def close(self) -> None:
        """Stop listening and end what is open, at the latest after a few seconds."""
        self._server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * GOODBYE_SECONDS):
                await asyncio.shield(self._task)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def parse_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:8787`, `[::1]:0`. Raises ConfigError."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or parts.path:
        raise ConfigError(
            f"{address!r} is no address to serve a page at",
            "it is not of the form host:port",
            "write it like 127.0.0.1:8787; port 0 takes a free one",
        )
    return host, port


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        raise ConfigError(
            f"nothing can be served at {host}:{port}",
            (error.strerror or str(error)).lower(),
            "choose another port, or port 0 for a free one",
        ) from None
