"""The engine process as the server holds it: start, whole messages in and out, end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from dataclasses import dataclass

from local_worker.engines.llama_cpp import messages
from local_worker.errors import EngineStartError


@dataclass(slots=True)
class Child:
    """A running process and the server's end of its socket."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def launch(cls) -> Child:
        """Starts a process. Raises `EngineStartError` when the system has no room for one."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "local_worker.engines.llama_cpp.worker"),
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C is for the server, which ends it in due time
                )
            except OSError as error:
                ours.close()
                raise EngineStartError(f"cannot start the llama.cpp process: {error}") from error
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(process, reader, writer)

    def send(self, message: messages.Command | messages.LlamaConfig) -> None:
        """Sends one message, unless the process is gone already."""
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
        """Ends the process at once, unless it has ended already."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def end(self, grace: float) -> int:
        """Waits so long for the process to end by itself, then kills it. Returns its status."""
        try:
            return await asyncio.wait_for(self.process.wait(), grace)
        except TimeoutError:
            self.kill()
            return await self.process.wait()
        finally:
            self.writer.close()
            with contextlib.suppress(ConnectionError):
                await self.writer.wait_closed()
