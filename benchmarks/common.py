"""What the checks over HTTP share: a server of their own, requests, and how a response ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

READY = re.compile(r"ready {4}(http://[^/]+)")
START_SECONDS = 600.0
CHAT = "/v1/chat/completions"


class Server:
    """`local-worker serve` as a process of its own, on a free port."""

    def __init__(self, *arguments: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        command = [sys.executable, "-m", "local_worker", "serve", "--port", "0", *arguments]
        if "--ledger" not in arguments:  # what is only measured is no work to keep books on
            command.append("--no-ledger")
        self.process = subprocess.Popen(command, stderr=self._log)
        self.url = self._wait()

    def _wait(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            log = os.pread(self._log.fileno(), 1 << 20, 0).decode()
            if match := READY.search(log):
                return match[1]
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{log}")
            time.sleep(0.05)
        raise RuntimeError("the server did not get ready")

    def engine_pid(self) -> int | None:
        """The engine process, None while there is none."""
        listing = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return int(listing.stdout.split()[0]) if listing.stdout.split() else None

    def stop(self) -> int:
        """Stops it as an operator would. Returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def server_at(url: str | None, *arguments: str) -> Iterator[str]:
    """The URL given, or that of a server started for the occasion."""
    if url is not None:
        yield url
        return
    server = Server(*arguments)
    try:
        yield server.url
    finally:
        server.stop()


def tell(report: dict[str, Any]) -> int:
    """Prints a report, for people and on one line for programs. 1 where it has `defects`."""
    for name, value in report.items():
        print(f"{name}: {value}")
    print(json.dumps(report))
    return int(bool(report["defects"]))


@dataclass(slots=True)
class Answer:
    """A chat response, streamed or not.

    Attributes:
        ends: terminal messages seen: finish reasons, errors, or a status other than 200.
    """

    content: str = ""
    reasoning: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    effort: dict[str, Any] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)

    def take(self, payload: dict[str, Any]) -> None:
        """Adds a whole response or one chunk of it."""
        if "error" in payload:
            self.ends.append("error: " + payload["error"]["message"])
            return
        self.usage = payload.get("usage") or self.usage
        self.effort = payload.get("reasoning") or self.effort
        for choice in payload["choices"]:
            part = choice.get("message") or choice.get("delta") or {}
            self.content += part.get("content") or ""
            self.reasoning += part.get("reasoning_content") or ""
            if choice.get("finish_reason"):
                self.ends.append(choice["finish_reason"])


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
    """Sends a chat request and reads the answer to its end."""
    answer = Answer()
    if not body.get("stream"):
        answer.take((await client.post(CHAT, json=body)).json())
        return answer
    async with client.stream("POST", CHAT, json=body) as response:
        async for line in response.aiter_lines():
            if not line or line == "data: [DONE]":
                continue
            answer.take(json.loads(line.removeprefix("data: ")))
    return answer
