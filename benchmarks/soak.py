"""64 clients, random disconnects, and the engine killed five times in between.

Checked: every request that its client did not abandon ends in exactly one terminal message; no
request hangs; /ready is true again within five seconds of every kill; afterwards no sequence is
left, and memory and file descriptors of the server are back where they were.

    python benchmarks/soak.py [--seconds 120] [--clients 64] [--kills 5]

Prints the counts, then one JSON line. Exits with 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import random
import signal
import sys
import time
from typing import Any

import httpx
import psutil
from common import Answer, Server, ask, tell

from local_worker.demo.families import FAMILIES, generate

REQUEST_SECONDS = 60.0
READY_SECONDS = 5.0
MEMORY_SLACK = 48 << 20
Counts = collections.Counter[str]


def draw(rng: random.Random) -> dict[str, Any]:
    """One random request."""
    family = rng.choice([name for name in FAMILIES if name != "tool_call"])
    (task,) = generate(family, rng.randrange(10**6), 1)
    return {
        "messages": list(task.messages),
        "reasoning_effort": rng.choice(["none", "low", "high"]),
        "temperature": rng.choice([0, 1]),
        "stream": rng.random() < 0.6,
    }


async def client_loop(url: str, seed: int, until: float, counts: Counts) -> None:
    """One client: asks, sometimes leaves early, and counts how its requests ended."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=url, timeout=REQUEST_SECONDS, trust_env=False, limits=limits
    ) as client:
        while time.monotonic() < until:
            body = draw(rng)
            try:
                if rng.random() < 0.25:
                    await asyncio.wait_for(ask(client, body), rng.random() * 0.8)
                    counts["finished before leaving"] += 1
                else:
                    counts[verdict(await ask(client, body))] += 1
            except TimeoutError:
                counts["left early"] += 1
            except httpx.TimeoutException:
                counts["HUNG"] += 1
            except (httpx.HTTPError, json.JSONDecodeError) as error:
                counts[f"BROKEN {type(error).__name__}"] += 1


def verdict(answer: Answer) -> str:
    """How a response ended, in capitals where that is a defect."""
    if len(answer.ends) != 1:
        return f"ENDS {len(answer.ends)}"
    return "error event" if answer.ends[0].startswith("error") else "finished"


async def killer(server: Server, kills: int, seconds: float) -> list[float]:
    """Kills the engine now and then. Returns the seconds until /ready each time."""
    recovered = []
    async with httpx.AsyncClient(base_url=server.url, timeout=10, trust_env=False) as client:
        for _ in range(kills):
            await asyncio.sleep(seconds / (kills + 1))
            pid = server.engine_pid()
            if pid is None:
                raise RuntimeError("there is no engine to kill")
            os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.05)  # the server has to notice first
            recovered.append(await seconds_until_ready(client) + 0.05)
    return recovered


async def seconds_until_ready(client: httpx.AsyncClient) -> float:
    """Asks /ready until it says so."""
    started = time.monotonic()
    for _ in range(10_000):
        if (await client.get("/ready")).status_code == httpx.codes.OK:
            break
        await asyncio.sleep(0.02)
    return time.monotonic() - started


async def gauges(url: str) -> dict[str, float]:
    """Running and waiting sequences and used KV cells, by metric name."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    names = ("running_sequences", "waiting_sequences", "kv_cells_used")
    return {
        name: float(line.split()[1])
        for name in names
        for line in lines
        if line.startswith(f"local_worker_{name} ")
    }


def footprint(process: psutil.Process) -> tuple[int, int]:
    """Open files and resident bytes of the server process (without the engine's)."""
    return process.num_fds(), process.memory_info().rss


async def soak(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """The whole run. Returns the report."""
    process = psutil.Process(server.process.pid)
    counts: Counts = collections.Counter()
    # A first round fills caches and pools, which are not leaks.
    warm = time.monotonic() + min(10.0, options.seconds / 4)
    await asyncio.gather(
        *(client_loop(server.url, i, warm, counts) for i in range(options.clients))
    )
    await asyncio.sleep(2)
    before = footprint(process)
    counts.clear()
    until = time.monotonic() + options.seconds
    loops = [client_loop(server.url, 1000 + i, until, counts) for i in range(options.clients)]
    killing = asyncio.create_task(killer(server, options.kills, options.seconds))
    await asyncio.gather(*loops)
    recovered = await killing
    await asyncio.sleep(3)
    after = footprint(process)
    return {
        "counts": dict(counts),
        "ready_after_kill_s": [round(seconds, 2) for seconds in recovered],
        "open_files": [before[0], after[0]],
        "resident_mb": [round(size / 1e6, 1) for size in (before[1], after[1])],
        "left": await gauges(server.url),
    }


def defects(report: dict[str, Any]) -> list[str]:
    """What is wrong with a report."""
    wrong = [f"{n} x {what}" for what, n in report["counts"].items() if what.split()[0].isupper()]
    wrong += [f"ready after {s} s" for s in report["ready_after_kill_s"] if s > READY_SECONDS]
    wrong += [f"{name}: {value} left" for name, value in report["left"].items() if value]
    before, after = report["open_files"]
    if after > before + 2:
        wrong.append(f"open files grew from {before} to {after}")
    before, after = report["resident_mb"]
    if (after - before) * 1e6 > MEMORY_SLACK:
        wrong.append(f"memory grew from {before} to {after} MB")
    return wrong


def main() -> int:
    """Runs the soak. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    server = Server()
    try:
        report = asyncio.run(soak(server, options))
    finally:
        status = server.stop()
    report["defects"] = defects(report) + ([f"exit status {status}"] if status else [])
    return tell(report)


if __name__ == "__main__":
    sys.exit(main())
