"""Streams completions from any OpenAI-compatible server, and notes when everything came."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from local_worker.bench.scenario import COMPLETIONS, SAMPLE_WORDS, requests, sample
from local_worker.bench.stats import Summary, Timed, summarise
from local_worker.errors import BenchError, first_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_worker.bench.peers import Target
    from local_worker.bench.scenario import Request, Scenario

REQUEST_SECONDS = 1800.0


async def run(target: Target, scenario: Scenario, seed: int, tokens_per_word: float) -> Summary:
    """One run of a scenario against one server.

    Raises:
        BenchError: the server cannot be reached, refuses a request, or streams nothing.
    """
    async with _client(target, scenario.concurrency) as client:
        sent = requests(scenario, seed, tokens_per_word)
        try:
            with _busy(scenario.neighbours):
                return await _Run(client, target.model, scenario, sent).run()
        except* (httpx.HTTPError, BenchError) as group:
            raise _as_one(group, target) from None


async def tokens_per_word(target: Target) -> float:
    """How many tokens the server's tokenizer makes of a word of the prompts; warms it up, too.

    Raises:
        BenchError: the server cannot be reached, or says nothing about usage.
    """
    body = {"prompt": sample(), "max_tokens": 1, "model": target.model}
    async with _client(target, 1) as client:
        try:
            response = await client.post(COMPLETIONS, json=body)
        except httpx.HTTPError as error:
            raise _as_one(ExceptionGroup("", [error]), target) from None
        try:
            return float(response.json()["usage"]["prompt_tokens"]) / SAMPLE_WORDS
        except (ValueError, KeyError, TypeError):
            raise BenchError(
                f"{target.url} is no OpenAI server, or reports no usage: {response.text[:200]}"
            ) from None


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keeps so many cores of this machine busy."""
    # With an eye on its parent: nothing is left behind, however this process ends.
    script = f"import os\nwhile os.getppid() == {os.getpid()}: sum(range(1 << 20))"
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", script])  # noqa: S603 - our own
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def _client(target: Target, connections: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=target.url,
        timeout=httpx.Timeout(REQUEST_SECONDS, connect=10.0),
        # A connection for each request: servers close idle ones when they like.
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=0),
        headers={"Authorization": f"Bearer {target.api_key}"} if target.api_key else {},
        trust_env=False,
    )


def _as_one(group: BaseExceptionGroup[Exception], target: Target) -> BenchError:
    error = first_of(group)
    if isinstance(error, BenchError):
        return error
    return BenchError(f"{target.name} at {target.url}: {type(error).__name__} {error}")


class _Run:
    def __init__(
        self,
        client: httpx.AsyncClient,
        model: str | None,
        scenario: Scenario,
        sent: tuple[tuple[Request, ...], Request | None],
    ) -> None:
        self._client = client
        self._model = model
        self._scenario = scenario
        self._requests, self._long = sent
        self._done: list[Timed] = []
        self._streaming = 0
        self._all_stream = asyncio.Event()

    async def run(self) -> Summary:
        scenario = self._scenario
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            long = group.create_task(self._intrude()) if scenario.intruder else None
            if scenario.rate is None:
                waiting = iter(self._requests)
                for _ in range(scenario.clients):
                    group.create_task(self._client_loop(waiting))
            else:
                await self._arrivals(group, scenario.rate)
        seconds = max(r.chunks[-1] for r in self._done) - start
        return summarise(self._done, seconds, scenario.goal, long.result() if long else None)

    async def _client_loop(self, waiting: Iterator[Request]) -> None:
        for request in waiting:
            await self._one(request)

    async def _arrivals(self, group: asyncio.TaskGroup, rate: float) -> None:
        gate = asyncio.Semaphore(self._scenario.clients)

        async def arrive(request: Request) -> None:
            async with gate:
                await self._one(request)

        for request in self._requests:
            group.create_task(arrive(request))
            await asyncio.sleep(1 / rate)

    async def _intrude(self) -> Timed:
        intruder = self._scenario.intruder
        assert intruder is not None
        assert self._long is not None
        await self._all_stream.wait()
        await asyncio.sleep(intruder.after)
        return await self._stream(self._long)

    async def _one(self, request: Request) -> None:
        self._done.append(await self._stream(request, counted=True))

    def _one_more_streams(self) -> None:
        self._streaming += 1
        if self._streaming == min(self._scenario.clients, self._scenario.requests):
            self._all_stream.set()

    async def _stream(self, request: Request, *, counted: bool = False) -> Timed:
        body = {**request.body, "stream": True, "stream_options": {"include_usage": True}}
        if self._model is not None:
            body["model"] = self._model
        chunks: list[float] = []
        usage: dict[str, Any] = {}
        sent = time.perf_counter()
        async with self._client.stream("POST", request.path, json=body) as response:
            if response.status_code != httpx.codes.OK:
                text = (await response.aread()).decode(errors="replace")[:300]
                raise BenchError(f"{self._client.base_url} answered {response.status_code}: {text}")
            async for line in response.aiter_lines():
                event = _event(line)
                usage = event.get("usage") or usage
                if _has_output(event):
                    if counted and not chunks:
                        self._one_more_streams()
                    chunks.append(time.perf_counter())
        if not chunks:
            raise BenchError(f"{self._client.base_url} streamed no token")
        details = usage.get("prompt_tokens_details") or {}
        return Timed(
            sent,
            tuple(chunks),
            usage.get("completion_tokens", len(chunks)),
            usage.get("prompt_tokens", 0),
            details.get("cached_tokens") or 0,
        )


def _has_output(event: dict[str, Any]) -> bool:
    """Whether it brings some of the answer; a chat's first event may only say who speaks."""
    choices = event.get("choices")
    if not choices or choices[0].get("finish_reason") is not None:
        return False
    delta = choices[0].get("delta")
    return delta is None or any(value for key, value in delta.items() if key != "role")


def _event(line: str) -> dict[str, Any]:
    """The event in a line of a stream; empty for any other line.

    Raises:
        BenchError: it is an error, or not what an OpenAI server sends.
    """
    if not line.startswith("data: ") or line == "data: [DONE]":
        return {}
    try:
        event = json.loads(line.removeprefix("data: "))
    except ValueError:
        raise BenchError(f"not an OpenAI stream: {line[:100]!r}") from None
    if not isinstance(event, dict) or "error" in event:
        raise BenchError(f"the stream ended with an error: {line[:300]}")
    return event
