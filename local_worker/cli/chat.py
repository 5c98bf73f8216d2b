"""`local-worker chat`: a conversation in the terminal with a running server."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from rich.console import Console

from local_worker.errors import ConfigError, StartupError
from local_worker.reasoning.effort import LEVELS
from local_worker.reasoning.routing import AUTO

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

TIMEOUT = httpx.Timeout(10.0, read=None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `chat`."""
    add = parser.add_argument
    add("message", nargs="*", help="ask this and leave; without it, a conversation")
    add("--url", default="http://127.0.0.1:8000", help="the server (default: %(default)s)")
    add("--effort", choices=(*LEVELS, AUTO), help="thinking effort (default: the model's)")
    add("--system", help="a system message")
    add("--max-tokens", type=int, metavar="N", help="output tokens at the most")
    add("--api-key", default=os.environ.get("LOCAL_WORKER_API_KEY"), help="the server's key")


def run(options: argparse.Namespace) -> int:
    """Talks until the user has had enough."""
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    base = options.url.rstrip("/").removesuffix("/v1")
    with httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT, trust_env=False) as client:
        talk = Talk(client, options, Console(highlight=False))
        if options.message:
            talk.ask(" ".join(options.message))
            return 0
        talk.console.print("[dim]an empty line or Ctrl-D ends the conversation[/dim]")
        while question := _read_line():
            talk.ask(question)
    return 0


def _read_line() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


@dataclass(slots=True)
class Timing:
    """When things happened in one answer, in seconds on a monotonic clock."""

    asked: float
    first: float | None = None
    last: float | None = None

    def token(self) -> None:
        """Something arrived."""
        self.last = time.monotonic()
        self.first = self.first if self.first is not None else self.last


class Talk:
    """One conversation: its messages, and how answers are shown."""

    def __init__(self, client: httpx.Client, options: argparse.Namespace, console: Console) -> None:
        self.console = console
        self._client = client
        self._options = options
        self._messages: list[dict[str, str]] = []
        self._thinking = False
        if options.system:
            self._messages.append({"role": "system", "content": options.system})

    def ask(self, question: str) -> None:
        """Sends the conversation with this question, shows the answer as it comes."""
        self._messages.append({"role": "user", "content": question})
        timing, answer = Timing(time.monotonic()), ""
        last: dict[str, Any] = {}
        for chunk in self._stream():
            last |= {key: chunk[key] for key in ("usage", "reasoning") if chunk.get(key)}
            for choice in chunk["choices"]:
                answer += self._show(choice["delta"], timing)
        self.console.print()
        self._messages.append({"role": "assistant", "content": answer})
        self.console.print(summary(timing, last), style="dim", markup=False)

    def _show(self, delta: dict[str, Any], timing: Timing) -> str:
        thought, text = delta.get("reasoning_content") or "", delta.get("content") or ""
        if thought or text:
            timing.token()
        if thought:
            self.console.print(thought, style="dim italic", end="", markup=False, soft_wrap=True)
        if text:
            if self._thinking:
                self.console.print("\n")
            self.console.print(text, end="", markup=False, soft_wrap=True)
        if thought or text:
            self._thinking = bool(thought)
        return text

    def _stream(self) -> Iterator[dict[str, Any]]:
        body: dict[str, Any] = {
            "messages": self._messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._options.effort:
            body["reasoning_effort"] = self._options.effort
        if self._options.max_tokens:
            body["max_completion_tokens"] = self._options.max_tokens
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    raise StartupError(_problem(response))
                yield from _payloads(response)
        except httpx.HTTPError as error:
            raise ConfigError(
                f"no answer from {self._options.url} ({error}); is `local-worker serve` running?"
            ) from None


def _payloads(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        data = line.removeprefix("data: ")
        if not line.startswith("data: ") or data == "[DONE]":
            continue
        payload = json.loads(data)
        if "error" in payload:
            raise StartupError(payload["error"]["message"])
        yield payload


def _problem(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code}"


def summary(timing: Timing, last: dict[str, Any]) -> str:
    """The line under an answer: tokens/s, time to first token, effort."""
    usage, effort = last.get("usage", {}), last.get("reasoning", {})
    tokens = usage.get("completion_tokens", 0)
    parts = [f"{tokens} tokens"]
    if timing.first is not None and timing.last is not None:
        if timing.last > timing.first:
            parts.append(f"{(tokens - 1) / (timing.last - timing.first):.1f} tokens/s")
        parts.append(f"first after {timing.first - timing.asked:.2f} s")
    if effort:
        parts.append(
            f"effort {effort['effort']}: {effort['used_tokens']} of {effort['budget_tokens']} "
            f"thinking tokens, closed by {effort['closed_by']}"
        )
    return "[" + ", ".join(parts) + "]"
