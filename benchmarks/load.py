"""Streamed completions at a fixed concurrency, and what came of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import time
from dataclasses import dataclass

import httpx

WORDS = (
    "river", "stone", "engine", "paper", "window", "garden", "market", "signal", "winter",
    "bridge", "copper", "lantern",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """What a server gets: so many requests, so many of them at a time."""

    concurrency: int
    requests: int
    prompt_words: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What it made of it.

    Attributes:
        rate: requests/s.
        tokens: output tokens/s.
        ttft: median time to first token, in seconds.
        itl: median and 99th percentile of the time between chunks, in seconds.
    """

    rate: float
    tokens: float
    ttft: float
    itl: tuple[float, float]


async def measure(url: str, model: str, load: Load, seed: int) -> Measured:
    """Runs the load. The prompts follow from the seed alone."""
    rng = random.Random(seed)  # noqa: S311 - for prompts
    prompts = [" ".join(rng.choices(WORDS, k=load.prompt_words)) for _ in range(load.requests)]
    waits: list[float] = []
    gaps: list[float] = []
    limits = httpx.Limits(max_connections=load.concurrency)
    async with httpx.AsyncClient(
        base_url=url, timeout=600, trust_env=False, limits=limits
    ) as client:

        async def client_loop() -> None:
            while prompts:
                times = await stream(client, model, prompts.pop(), load.max_tokens)
                waits.append(times[1] - times[0])
                gaps.extend(b - a for a, b in itertools.pairwise(times))

        start = time.perf_counter()
        await asyncio.gather(*(client_loop() for _ in range(load.concurrency)))
        seconds = time.perf_counter() - start
    gaps.sort()
    return Measured(
        load.requests / seconds,
        load.requests * load.max_tokens / seconds,
        statistics.median(waits),
        (statistics.median(gaps), gaps[int(0.99 * (len(gaps) - 1))]),
    )


async def stream(
    client: httpx.AsyncClient, model: str, prompt: str, max_tokens: int
) -> list[float]:
    """One completion, read to its end: when it was sent, and when each chunk came."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    times = [time.perf_counter()]
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                assert "error" not in json.loads(line[6:]), line
                times.append(time.perf_counter())
    assert len(times) > max_tokens // 2, f"{len(times)} chunks for {max_tokens} tokens"
    return times
