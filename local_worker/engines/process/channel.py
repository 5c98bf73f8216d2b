"""The engine process's own end of the border."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.engines.process import messages

if TYPE_CHECKING:
    from local_worker.engines.process.messages import Event

SEND_BUFFER_BYTES = 4 << 20
OOM_SCORE = 500
"""Where memory runs out the kernel should take this process, which is restarted, not the server."""


class Channel:
    """The process's end of the socket: whole frames in, whole frames out, from two threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._file = sock.makefile("rb")

    def send(self, message: Event) -> None:
        """Sends one message; blocks while the server is further behind than the buffer holds."""
        data = messages.frame(message)
        with self._lock:
            self._sock.sendall(data)

    def receive(self) -> bytes | None:
        """The body of the next frame, None when the server is gone."""
        header = self._file.read(messages.HEADER.size)
        if len(header) < messages.HEADER.size:
            return None
        (length,) = messages.HEADER.unpack(header)
        body = self._file.read(length)
        return body if len(body) == length else None

    def close(self) -> None:
        """Gives the socket back."""
        self._file.close()
        self._sock.close()


def open_channel(descriptor: str) -> Channel:
    """The channel on that file descriptor, in a process made ready to serve on it."""
    # The server decides when this process ends, also when a whole control group is signalled.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _prefer_this_process_for_the_oom_killer()
    return Channel(socket.socket(fileno=int(descriptor)))


def _prefer_this_process_for_the_oom_killer() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    except OSError:
        return  # not Linux, or not allowed: it was a preference
