"""The engine process as the server holds it: start, whole messages in and out, end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from local_worker.engines.process import messages
from local_worker.errors import EngineStartError

if TYPE_CHECKING:
    from collections.abc import Mapping


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


@dataclass(slots=True)
class Child:
    """A running process and the server's end of its socket."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def launch(cls, program: Program) -> Child:
        """Starts a process and sends its config.

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
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        child = cls(process, reader, writer)
        child._write(program.config)
        return child

    def send(self, message: messages.Command) -> None:
        """Sends one message, unless the process is gone already."""
        self._write(message)

    def _write(self, message: object) -> None:
        if not self.writer.is_closing():
            self.writer.write(messages.frame(message))

    async def receive(self) -> messages.Event | None:
        """The next event; None when the process is gone."""
        try:
            header = await self.reader.readexactly(messages.HEADER.size)
            (length,) = messages.HEADER.unpack(header)
            return messages.event_decoder.decode(await self.reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

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
            self.writer.close()
            with contextlib.suppress(ConnectionError):
                await self.writer.wait_closed()


def describe_exit(status: int) -> str:
    """How a process ended, in words."""
    if status == -signal.SIGKILL:
        return "killed by signal 9, as the system does where memory runs out"
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
