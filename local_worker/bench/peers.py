"""The servers of a benchmark: one that runs already, and ones that are started for it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from local_worker.errors import BenchError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

START_SECONDS = 600.0
STOP_SECONDS = 15.0
LAST_WORDS = 400


@dataclass(frozen=True, slots=True)
class Target:
    """A server to measure.

    Attributes:
        name: for tables.
        url: without `/v1`.
        model: what requests call the model; None where the server does not care.
        api_key: sent as a bearer token.
    """

    name: str
    url: str
    model: str | None = None
    api_key: str | None = None


class Started:
    """A server process on a free port of this machine.

    Args:
        name: for tables and errors.
        command: `{port}` stands for the port.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        port = _free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        self.target = Target(name, f"http://127.0.0.1:{port}")
        self._process = subprocess.Popen(  # noqa: S603 - what the user asked to be measured
            [part.replace("{port}", str(port)) for part in command],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        """Until it answers.

        Raises:
            BenchError: it ended, or did not get ready.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            for path in ("/ready", "/health"):  # llama-server has the second one only
                try:
                    status = httpx.get(self.target.url + path, timeout=5, trust_env=False)
                except httpx.HTTPError:
                    break
                if status.status_code == httpx.codes.OK:
                    return
                if status.status_code != httpx.codes.NOT_FOUND:
                    break
            time.sleep(0.2)
        raise BenchError(f"{self.target.name} did not get ready: {self._last_words()}")

    def check(self) -> None:
        """Raises `BenchError` when the process has ended."""
        if (status := self._process.poll()) is not None:
            raise BenchError(f"{self.target.name} ended with status {status}: {self._last_words()}")

    def stop(self) -> None:
        """Ends the process."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _last_words(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), LAST_WORDS, max(0, size - LAST_WORDS))
        return last_words(text)


def last_words(printed: bytes) -> str:
    """The end of what a program has printed, on one line: the best account of a failure."""
    return " ".join(printed.decode(errors="replace").split())[-LAST_WORDS:]


def program(binary: str, option: str) -> str:
    """The path of one of llama.cpp's programs.

    Args:
        binary: its name or path.
        option: where the user can say it.

    Raises:
        BenchError: it is not there.
    """
    found = shutil.which(binary)
    if found is None:
        raise BenchError(
            f"there is no program {binary!r}: install llama.cpp, or say where with {option}"
        )
    return found


def local_worker(model: str, arguments: Sequence[str] = (), called: Sequence[str] = ()) -> Started:
    """This server, on that model.

    Args:
        model: a name, or a file.
        arguments: of `serve`.
        called: those of them that its name is to have.

    Raises:
        ConfigError: they say where it is to listen.
    """
    if any(argument.startswith(("--port", "--host")) for argument in arguments):
        raise ConfigError("--serve-arg and --vs-arg cannot say where a server listens")
    command = [sys.executable, "-m", "local_worker", "serve", "--port", "{port}", "--model", model]
    # What is only measured is no work to keep books on.
    name = " ".join(("local-worker", *called))
    return Started(name, [*command, "--skip-bandwidth", "--no-ledger", *arguments])


def llama_server(binary: str, model: str, *, slots: int | None, cells: int) -> Started:
    """llama.cpp's own server: with its default number of slots, or with so many.

    Args:
        binary: its name or path.
        model: a GGUF file.
        slots: None for the default.
        cells: of its KV cache.

    Raises:
        BenchError: there is no such program.
    """
    found = program(binary, "--llama-server")
    name = "llama-server" if slots is None else f"llama-server, {slots} slots"
    command = [found, "-m", model, "--port", "{port}", "--threads", str(os.cpu_count() or 1)]
    command += ["-c", str(cells)]
    return Started(name, [*command, *(("-np", str(slots)) if slots else ())])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
