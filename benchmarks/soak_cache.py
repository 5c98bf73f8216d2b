"""A mixed load under cache pressure: is every answer what a fresh engine gives, and memory flat?

Twelve clients send, for as long as asked: jobs that begin with one of a dozen system prompts, the
same prompt from several at once, conversations that go on from their own answers, prompts that
share nothing, long ones, and some that are given up on the way. The cells are too few for all of
it, so prefixes are shared, evicted, copied out and back all the time.

Afterwards a fresh server, which computes one sequence at a time and caches nothing, answers a
sample of them again. All are greedy. How far two answers are apart is the largest difference of a
token's logprob, or, where they part, how sure the model was of its choice there. Batches of another
shape round otherwise, and a mixture of experts can make much of that; so a server without any cache
has the same load for a while, and its answers are the control.

    python benchmarks/soak_cache.py [--seconds 1800] [--check 400] [--model demo] [--seed 1]

Prints the counts, then one JSON line. Exits with 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import math
import random
import sys
import time
from dataclasses import dataclass, field

import httpx
import psutil
from common import Server, tell

from local_worker.demo.families import FAMILIES, generate

SERVE = ("--skip-bandwidth", "--context", "2048")
CLIENTS = 12
SYSTEMS = 12
SAME, NEAR = 0.05, 0.5
"""Distances: what is below the first is the same, and above the second far away."""

SIGMAS = 3.0
"""By which answers with a cache may be worse than those of the control."""

CONTROL_SECONDS = 60.0

SAMPLES = 30
GROWTH = 1.05
"""Of resident memory, from the second third of the run to the last."""

Counts = collections.Counter[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt and what came back: tokens with their logprob and that of the second choice."""

    prompt: str
    max_tokens: int
    tokens: tuple[tuple[str, float, float], ...]


@dataclass(slots=True)
class Load:
    """What all clients share."""

    url: str
    seed: int
    until: float
    counts: Counts = field(default_factory=collections.Counter)
    asked: list[Asked] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)


def task_text(rng: random.Random) -> str:
    """A task of the embedded model's, in one line."""
    (task,) = generate(rng.choice(list(FAMILIES)), rng.randrange(10**6), 1)
    return " ".join(str(message.get("content")) for message in task.messages)


def system_prompts(seed: int) -> list[str]:
    """Long texts that jobs begin with; some of them begin alike themselves."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    common = task_text(rng)
    texts = [" ".join(task_text(rng) for _ in range(rng.randint(3, 8))) for _ in range(SYSTEMS)]
    return [f"{common} {text}" if n % 3 == 0 else text for n, text in enumerate(texts)]


async def ask(client: httpx.AsyncClient, prompt: str, max_tokens: int) -> Asked:
    """One greedy completion of the prompt as it stands."""
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "logprobs": 2}
    response = await client.post("/v1/completions", json=body)
    response.raise_for_status()
    found = response.json()["choices"][0]["logprobs"]
    if found is None:  # it ended at once
        return Asked(prompt, max_tokens, ())
    rows = zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True)
    tokens = tuple((token, own, min(top.values(), default=own)) for token, own, top in rows)
    return Asked(prompt, max_tokens, tokens)


def text_of(asked: Asked) -> str:
    """What was answered."""
    return "".join(token for token, _, _ in asked.tokens)


async def client_loop(load: Load, number: int) -> None:
    """One client, until the time is up."""
    rng = random.Random(load.seed * 1000 + number)  # noqa: S311 - not a secret
    systems, conversation = system_prompts(load.seed), ""
    async with httpx.AsyncClient(base_url=load.url, timeout=120, trust_env=False) as client:
        while time.monotonic() < load.until:
            kind = rng.choice(
                ["job", "job", "job", "same", "turn", "turn", "alone", "long", "left"]
            )
            most = rng.choice([1, 4, 16, 48])
            if kind in {"job", "left"}:
                # The first ones are asked for most: others come back when they have been evicted.
                index = min(int(rng.expovariate(0.4)), SYSTEMS - 1)
                prompt = f"{systems[index]} {task_text(rng)}"
            elif kind == "same":  # what others ask for in the same two seconds, too
                prompt = f"{systems[0]} {int(time.monotonic() / 2)} {task_text(random.Random(1))}"  # noqa: S311
            elif kind == "turn":
                conversation = f"{conversation} {task_text(rng)}"[-3000:]
                if rng.random() < 0.1:
                    conversation = ""
                prompt = conversation or task_text(rng)
            elif kind == "long":
                prompt = " ".join(task_text(rng) for _ in range(16))
            else:
                prompt = task_text(rng)
            answer = await one(load, client, rng, kind, prompt, most)
            if kind == "turn" and answer is not None:
                conversation = prompt + text_of(answer)


async def one(
    load: Load, client: httpx.AsyncClient, rng: random.Random, kind: str, prompt: str, most: int
) -> Asked | None:
    """Asks, counts how it ended, and remembers what came."""
    answer = None
    try:
        if kind == "left":
            await asyncio.wait_for(ask(client, prompt, 64), rng.random() * 0.2)
            load.counts["finished before leaving"] += 1
        else:
            answer = await ask(client, prompt, most)
            load.asked.append(answer)
            load.counts[kind] += 1
    except TimeoutError:
        load.counts["left early"] += 1
    except httpx.HTTPStatusError as error:
        load.counts[f"BROKEN {error.response.status_code} {error.response.text[:120]}"] += 1
    except httpx.HTTPError as error:
        load.counts[f"BROKEN {type(error).__name__}"] += 1
    return answer


async def watch(load: Load, server: Server, seconds: float) -> None:
    """Notes the resident bytes of the server and its engine now and then."""
    process = psutil.Process(server.process.pid)
    while time.monotonic() < load.until:
        await asyncio.sleep(seconds / SAMPLES)
        processes = [process, *process.children(recursive=True)]
        load.resident.append(sum(p.memory_info().rss for p in processes))


def distance(before: Asked, fresh: Asked) -> float:
    """How far two answers to one prompt are apart."""
    apart = 0.0
    for (token, own, second), (other, fresh_own, fresh_second) in zip(
        before.tokens, fresh.tokens, strict=False
    ):
        if token != other:
            return max(apart, own - second, fresh_own - fresh_second)
        apart = max(apart, abs(own - fresh_own))
    return apart if len(before.tokens) == len(fresh.tokens) else max(apart, 2 * SAME)


async def check(url: str, asked: list[Asked]) -> list[float]:
    """Asks all of them again. Returns how far the answers are apart."""
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        return [distance(a, await ask(client, a.prompt, a.max_tokens)) for a in asked]


def share_beyond(distances: list[float], bound: float) -> tuple[float, float]:
    """Of the answers, and its standard error; one more is counted, so that none is not certain."""
    share = (sum(d > bound for d in distances) + 1) / (len(distances) + 2)
    return share, math.sqrt(share * (1 - share) / len(distances))


def summary(distances: list[float]) -> dict[str, float]:
    """Counts of answers by how far they are from the fresh ones."""
    return {
        "answers": len(distances),
        "same": sum(d <= SAME for d in distances),
        "near": sum(SAME < d <= NEAR for d in distances),
        "far": sum(d > NEAR for d in distances),
        "furthest": round(max(distances), 2),
    }


async def cached_share(url: str) -> dict[str, float]:
    """What the engine says about its cache, by metric name."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    names = ("engine_prompt_tokens_total", "engine_cached_tokens_total")
    return {
        name: float(line.split()[1])
        for name in names
        for line in lines
        if line.startswith(f"local_worker_{name} ")
    }


async def soak(server: Server, seed: int, seconds: float) -> tuple[Load, dict[str, float]]:
    """The load."""
    load = Load(server.url, seed, time.monotonic() + seconds)
    loops = [client_loop(load, number) for number in range(CLIENTS)]
    await asyncio.gather(watch(load, server, seconds), *loops)
    return load, await cached_share(server.url)


def defects(load: Load, found: list[float], control: list[float]) -> list[str]:
    """What is wrong."""
    wrong = [f"{n} x {what}" for what, n in load.counts.items() if what[:4] in ("BROK", "exit")]
    for bound in (SAME, NEAR):
        (ours, our_error), (theirs, their_error) = (
            share_beyond(distances, bound) for distances in (found, control)
        )
        if ours - theirs > SIGMAS * math.hypot(our_error, their_error):
            wrong.append(
                f"{ours:.3f} of the answers are further than {bound}, control {theirs:.3f}"
            )
    third = len(load.resident) // 3
    middle, last = max(load.resident[third : 2 * third]), max(load.resident[2 * third :])
    if last > GROWTH * middle:
        wrong.append(f"memory grew from {middle / 1e6:.0f} to {last / 1e6:.0f} MB")
    return wrong


def loaded(
    options: argparse.Namespace, seconds: float, *arguments: str
) -> tuple[Load, dict[str, float], list[Asked]]:
    """A server under load: what came, its cache's figures, and a sample of the answers."""
    server = Server(*SERVE, "--model", options.model, "--max-num-seqs", "6", *arguments)
    try:
        load, share = asyncio.run(soak(server, options.seed, seconds))
    finally:
        status = server.stop()
    if status:
        load.counts[f"exit status {status}"] += 1
    rng = random.Random(options.seed)  # noqa: S311 - not a secret
    return load, share, rng.sample(load.asked, min(options.check, len(load.asked)))


def main() -> int:
    """Runs the soak. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--check", type=int, default=400, help="answers to ask for again")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    _, _, control = loaded(options, CONTROL_SECONDS, "--prefix-slots", "0", "--cache-gb", "0")
    cache = ("--prefix-slots", "4", "--cache-gb", "0.02")
    load, share, some = loaded(options, options.seconds, *cache)
    alone = ("--max-num-seqs", "1", "--prefix-slots", "0", "--cache-gb", "0")
    fresh = Server(*SERVE, "--model", options.model, *alone)
    try:
        apart = asyncio.run(check(fresh.url, some))
        control_apart = asyncio.run(check(fresh.url, control))
    finally:
        fresh.stop()
    report = {
        "counts": dict(load.counts),
        "cache": share,
        "checked": summary(apart),
        "control": summary(control_apart),
        "resident_mb": [round(size / 1e6) for size in load.resident],
        "defects": defects(load, apart, control_apart),
    }
    return tell(report)


if __name__ == "__main__":
    sys.exit(main())
