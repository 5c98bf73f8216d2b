"""The engine process as the server holds it: start, whole messages in and out, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from local_worker.engines.process import messages
from local_worker.errors import EngineStartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """What to run as an engine process.

    Attributes:
        name: the engine's, for people.
        module: run with `-m` and the number of its socket; it speaks `messages`.
        model: what it loads, for people.
        config: its first message: whatever the module decodes.
        env: set for it on top of the server's own environment.
    """

    name: str
    module: str
    model: str
    config: object
    env: Mapping[str, str] = field(default_factory=dict)


class _Events(asyncio.Protocol):
    """Hands events on as they come, with nobody to be woken in between: there is one a step.

    Args:
        take: called with every event but the first one, which `loaded` is set to; to None where the
            process ended before.
    """

    def __init__(self, take: Callable[[messages.Event], None]) -> None:
        self._take = take
        self._frames = messages.Frames()
        loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[messages.Event | None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            for body in self._frames.feed(data):
                event = messages.event_decoder.decode(body)
                if self.loaded.done():
                    self._take(event)
                else:
                    self.loaded.set_result(event)
        except Exception:  # the connection ends with it, and so does the process
            log.exception("an event of the engine process cannot be taken")
            raise

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        del exc  # whatever it was, the process is of no use any more
        if not self.loaded.done():
            self.loaded.set_result(None)
        self.gone.set_result(None)


@dataclass(slots=True)
class Child:
    """A running process and the server's end of its socket."""

    process: asyncio.subprocess.Process
    transport: asyncio.WriteTransport
    events: _Events

    @classmethod
    async def launch(cls, program: Program, take: Callable[[messages.Event], None]) -> Child:
        """Starts a process and sends its config; `take` gets its events from the second one on.

        Raises:
            EngineStartError: the system has no room for one.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", program.module, str(theirs.fileno())),
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, **program.env},
                    start_new_session=True,  # Ctrl-C is for the server, which ends it in due time
                )
            except OSError as error:
                ours.close()
                message = f"cannot start the {program.name} process: {error}"
                raise EngineStartError(message) from error
        loop = asyncio.get_running_loop()
        transport, events = await loop.create_unix_connection(lambda: _Events(take), sock=ours)
        child = cls(process, cast("asyncio.WriteTransport", transport), events)
        child._write(program.config)
        return child

    def send(self, message: messages.Command) -> None:
        """Sends one message, unless the process is gone already."""
        self._write(message)

    def _write(self, message: object) -> None:
        if not self.transport.is_closing():
            self.transport.write(messages.frame(message))

    async def loaded(self) -> messages.Event | None:
        """The first event; None where the process has ended before."""
        return await asyncio.shield(self.events.loaded)

    async def gone(self) -> None:
        """Returns when the process has closed its end."""
        await asyncio.shield(self.events.gone)

    def kill(self) -> None:
        """Ends the process and all that it started at once, unless they have ended already."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads a session, hence a group

    async def end(self, grace: float) -> int:
        """Waits so long for the process to end by itself, then kills it. Returns its status."""
        try:
            return await asyncio.wait_for(self.process.wait(), grace)
        except TimeoutError:
            self.kill()
            return await self.process.wait()
        finally:
            self.kill()  # a process of its own that outlived it would keep the model's memory
            self.transport.close()
            await self.gone()


def describe_exit(status: int) -> str:
    """How a process ended, in words."""
    if status == -signal.SIGKILL:
        return "killed by signal 9, as the system does where memory runs out"
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
