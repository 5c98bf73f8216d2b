"""A mixed load under cache pressure: is every answer what a fresh engine gives, and memory flat?

Twelve clients send, for as long as asked: jobs that begin with one of a dozen system prompts, the
same prompt from several at once, conversations that go on from their own answers, prompts that
share nothing, long ones, and some that are given up on the way. The cells are too few for all of
it, so prefixes are shared, evicted, copied out and back all the time.

Afterwards a fresh server, which computes one sequence at a time and caches nothing, answers a
sample of them again. All are greedy. Two answers are the same if their tokens are, or if they part
where the model's first two choices were a tie within rounding: batches of another shape round
otherwise.

    python benchmarks/soak_cache.py [--seconds 1800] [--check 400] [--model demo] [--seed 1]

Prints the counts, then one JSON line. Exits with 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
from common import Server

from local_worker.demo.families import FAMILIES, generate

CLIENTS = 12
SYSTEMS = 12
TIE = 0.05
"""Between the logprobs of two choices, or of one choice computed twice, that rounding explains."""

MOST_PARTED = 0.05
"""Of the answers, that may part at a tie."""

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


def judge(before: Asked, fresh: Asked) -> str:
    """Whether two answers to one prompt are the same."""
    for (token, own, second), (other, fresh_own, fresh_second) in zip(
        before.tokens, fresh.tokens, strict=False
    ):
        if token != other:
            tie = own - second < TIE and fresh_own - fresh_second < TIE
            return "parted at a tie" if tie else "WRONG token"
        if abs(own - fresh_own) > TIE:
            return "WRONG logprob"
    return "same" if len(before.tokens) == len(fresh.tokens) else "WRONG length"


async def check(url: str, asked: list[Asked]) -> tuple[Counts, list[dict[str, Any]]]:
    """Asks all of them again. Returns verdicts, and what was wrong."""
    verdicts: Counts = collections.Counter()
    wrong = []
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        for before in asked:
            fresh = await ask(client, before.prompt, before.max_tokens)
            verdict = judge(before, fresh)
            verdicts[verdict] += 1
            if verdict.startswith("WRONG"):
                wrong.append({"verdict": verdict, "was": before.tokens, "fresh": fresh.tokens})
    return verdicts, wrong


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


async def soak(server: Server, options: argparse.Namespace) -> tuple[Load, dict[str, float]]:
    """The load."""
    load = Load(server.url, options.seed, time.monotonic() + options.seconds)
    loops = [client_loop(load, number) for number in range(CLIENTS)]
    await asyncio.gather(watch(load, server, options.seconds), *loops)
    return load, await cached_share(server.url)


def defects(load: Load, verdicts: Counts) -> list[str]:
    """What is wrong."""
    wrong = [f"{n} x {what}" for what, n in (load.counts + verdicts).items() if what[:5].isupper()]
    if verdicts["parted at a tie"] > MOST_PARTED * verdicts.total():
        wrong.append(f"{verdicts['parted at a tie']} answers parted at a tie: too many for chance")
    third = len(load.resident) // 3
    middle, last = max(load.resident[third : 2 * third]), max(load.resident[2 * third :])
    if last > GROWTH * middle:
        wrong.append(f"memory grew from {middle / 1e6:.0f} to {last / 1e6:.0f} MB")
    return wrong


def main() -> int:
    """Runs the soak. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--check", type=int, default=400, help="answers to ask for again")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    serve = ("--model", options.model, "--skip-bandwidth", "--context", "2048")
    server = Server(*serve, "--max-num-seqs", "6", "--prefix-slots", "4", "--cache-gb", "0.02")
    try:
        load, share = asyncio.run(soak(server, options))
    finally:
        status = server.stop()
    some = random.Random(options.seed).sample(load.asked, min(options.check, len(load.asked)))  # noqa: S311
    fresh = Server(*serve, "--max-num-seqs", "1", "--prefix-slots", "0", "--cache-gb", "0")
    try:
        verdicts, wrong = asyncio.run(check(fresh.url, some))
    finally:
        fresh.stop()
    report = {
        "counts": dict(load.counts),
        "cache": share,
        "checked": dict(verdicts),
        "resident_mb": [round(size / 1e6) for size in load.resident],
        "defects": defects(load, verdicts) + ([f"exit status {status}"] if status else []),
        "wrong": wrong[:3],
    }
    for name, value in report.items():
        print(f"{name}: {value}")
    print(json.dumps(report))
    return int(bool(report["defects"]))


if __name__ == "__main__":
    sys.exit(main())
