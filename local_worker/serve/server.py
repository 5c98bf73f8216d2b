"""The server's life: bind, load, test, serve, drain, end.

The port is bound before anything else, so that a port in use is known at once; it answers /health
and /ready while the model is being loaded.

    first SIGTERM or SIGINT   new requests get 503, running ones go on for `drain_seconds`; those
                              that are left then end with an error event
    second one                everything ends at once
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

import uvicorn

from local_worker.api.app import create_app
from local_worker.api.model import load_model
from local_worker.api.pins import pin
from local_worker.errors import EngineError, EngineStartError, UnavailableError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from local_worker.api.model import ModelCard
    from local_worker.api.state import ApiState
    from local_worker.config import ServerConfig
    from local_worker.economics.books import Books

log = logging.getLogger(__name__)

LAST_BYTES_SECONDS = 2
"""After the engine has ended, what it takes to write the last answers and error events."""


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handling: the drain comes first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to `Server`."""
        yield


class Server:
    """One served model on one port.

    Args:
        books: their engine is not started yet.
        card: what is known about its model.
        config: of the HTTP side.
        on_ready: called with the base URL and the state once requests are served.
    """

    def __init__(
        self,
        books: Books,
        card: ModelCard,
        config: ServerConfig,
        on_ready: Callable[[str, ApiState], None] = lambda _url, _state: None,
    ) -> None:
        self._books = books
        self._engine = books.engine
        self._card = card
        self._config = config
        self._on_ready = on_ready
        self._app = create_app(books, config)
        self._state: ApiState = self._app.state.api
        self._settling: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """Serves until told to stop. Raises `StartupError` when the model cannot be loaded."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        uvicorn_config = uvicorn.Config(
            self._app,
            http="h11",  # which bounds a request's head; httptools takes one of any length
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=LAST_BYTES_SECONDS,
        )
        server = _Uvicorn(uvicorn_config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        loading = asyncio.create_task(self._load(listener))
        try:
            await self._until_stopped(loading)
            if not self._stop_now.is_set():
                await self._drain()
        finally:
            await _cancel(loading)
            if self._settling is not None:
                await _cancel(self._settling)
            await self._engine.aclose()
            server.should_exit = True
            server.force_exit = self._stop_now.is_set()
            await serving
            self._books.shut()

    def stop(self) -> None:
        """Asks for a graceful stop; the second time for an immediate one."""
        if self._stop.is_set():
            log.warning("stopping at once")
            self._stop_now.set()
        else:
            log.warning("stopping: running requests have %g s", self._config.drain_seconds)
        self._state.admission.drain()
        self._stop.set()

    async def _load(self, listener: socket.socket) -> None:
        await self._engine.start()
        try:
            self._state.loaded = await load_model(self._engine, self._card, self._config)
        except (EngineError, UnavailableError) as error:
            raise EngineStartError(f"the engine failed right after loading: {error}") from error
        self._books.begin()
        self._settling = asyncio.create_task(self._books.run(), name="books")
        for wanted in self._config.pins:
            tokens = await pin(self._state, wanted)
            log.warning("pinned: %d tokens of %s", tokens, wanted.name)
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        self._on_ready(f"http://{host}:{port}", self._state)

    async def _until_stopped(self, loading: asyncio.Task[None]) -> None:
        stopping = asyncio.create_task(self._stop.wait())
        failing = asyncio.create_task(self._engine.failed())
        try:
            await asyncio.wait({stopping, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()  # raises what went wrong
                await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                raise EngineStartError("the engine ended and could not be restarted")
        finally:
            await _cancel(stopping)
            await _cancel(failing)

    async def _drain(self) -> None:
        idle = asyncio.create_task(self._state.admission.idle())
        now = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait(
            {idle, now},
            timeout=self._config.drain_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not idle.done():
            log.warning("%d sequences are cut off", self._state.admission.in_flight)
        await _cancel(idle)
        await _cancel(now)


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Ends a task whose outcome no longer matters."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
