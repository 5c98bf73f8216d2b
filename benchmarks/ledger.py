"""What the ledger costs, and what it keeps: 64 clients, with and without it, and a kill.

Checked: every request that was answered more than a second before a SIGKILL has a row; after an
orderly end every answered request has exactly one, and there are as many rows as the server's own
counters say. Measured: requests/s, and processor seconds of the server for a request (which
neighbours on the machine disturb less), as a ratio of those with a ledger to those without; and
what the writing thread takes of all processor time, which nothing disturbs. Both servers run all
the time and get the same greedy requests in turns of one or two seconds, so that what disturbs one
disturbs the other; the interval is that of the mean over all pairs.

    python benchmarks/ledger.py [--seconds 8] [--clients 64] [--pairs 60] [--turn 256]

Prints the figures, then one JSON line. Exits with 1 when a row is missing or there twice.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import math
import re
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import psutil
from common import CHAT, Server, tell

if TYPE_CHECKING:
    from collections.abc import Callable

BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "My parcel has not come yet. Which team?"}],
    "reasoning_effort": "none",
    "temperature": 0,
}
SHARES = 5
"""Times that the writer's share is measured."""

ACKNOWLEDGED = 1.0
"""Seconds after which what was answered has to survive a kill."""

Answered = dict[str, float]
"""Time of the answer by the response's id."""


async def client_loop(url: str, more: Callable[[], bool], answered: Answered) -> None:
    """One client: asks again as soon as it has its answer, as long as there is more to ask."""
    async with aiohttp.ClientSession(url) as client:
        while more():
            try:
                async with client.post(CHAT, json=BODY) as response:
                    answer = await response.json()
            except aiohttp.ClientError:
                return  # the server was killed
            answered[answer["id"]] = time.time()


async def load(url: str, clients: int, seconds: float) -> Answered:
    """All of them for so long."""
    until = time.monotonic() + seconds
    return await _all(url, clients, lambda: time.monotonic() < until)


async def _all(url: str, clients: int, more: Callable[[], bool]) -> Answered:
    answered: Answered = {}
    await asyncio.gather(*(client_loop(url, more, answered) for _ in range(clients)))
    return answered


def processor_seconds(pid: int) -> float:
    """Of a process: to the nanosecond on Linux."""
    stats = Path("/proc", str(pid)).glob("task/*/schedstat")
    if exact := [int(stat.read_text().split()[0]) / 1e9 for stat in stats]:
        return sum(exact)
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def writers_share(folder: Path, clients: int, seconds: float) -> str:
    """Of the processor time of both processes, what the ledger's thread takes, from start to end.

    What else a ledger costs, a request's row put into a queue, is below a microsecond.
    """
    server = Server("--ledger", str(folder / "share.sqlite3"))
    try:
        pids = [pid for pid in (server.process.pid, server.engine_pid()) if pid]
        found = []
        for _ in range(SHARES):
            before = _both(server, pids)
            answered = asyncio.run(load(server.url, clients, seconds))
            time.sleep(2 * ACKNOWLEDGED)
            writer, all_of_it = (a - b for a, b in zip(_both(server, pids), before, strict=True))
            found.append(writer / all_of_it)
    finally:
        server.stop()
    low, high = min(found), max(found)
    return f"{statistics.median(found):.2%} ({low:.2%}-{high:.2%}), {len(answered)} requests each"


def _both(server: Server, pids: list[int]) -> tuple[float, float]:
    writer = counted(server.url, "local_worker_ledger_seconds_total")
    return writer, sum(map(processor_seconds, pids))


def turn(server: Server, clients: int, requests: int) -> tuple[float, float]:
    """Requests/s, and processor seconds a request."""
    pid = server.process.pid
    before, begun = processor_seconds(pid), time.monotonic()
    left = iter(range(requests))
    answered = asyncio.run(_all(server.url, clients, lambda: next(left, None) is not None))
    took = time.monotonic() - begun
    return len(answered) / took, (processor_seconds(pid) - before) / len(answered)


def rows(path: Path) -> collections.Counter[str]:
    """How often each response's id is in the ledger."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return collections.Counter(i for (i,) in connection.execute("SELECT id FROM requests"))


def counted(url: str, name: str = "local_worker_requests_total") -> float:
    """What the server's own counters of that name have; by default, of requests."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def orderly(folder: Path, clients: int, seconds: float) -> dict[str, int]:
    """A run that ends as it should."""
    path = folder / "orderly.sqlite3"
    server = Server("--ledger", str(path))
    answered = asyncio.run(load(server.url, clients, seconds))
    time.sleep(2 * ACKNOWLEDGED)
    metrics = int(counted(server.url))
    server.stop()
    found = rows(path)
    return {
        "answered": len(answered),
        "rows": sum(found.values()),
        "counted by the server": metrics,
        "answered without a row": len(answered.keys() - found.keys()),
        "rows that nobody asked for": len(found.keys() - answered.keys()),
        "rows that are there twice": sum(count > 1 for count in found.values()),
    }


async def _kill_in_the_middle(
    server: Server, clients: int, seconds: float
) -> tuple[Answered, float]:
    running = asyncio.create_task(load(server.url, clients, seconds + 30))
    await asyncio.sleep(seconds)
    killed = time.time()
    server.process.send_signal(signal.SIGKILL)
    return await running, killed


def killed(folder: Path, clients: int, seconds: float) -> dict[str, int]:
    """A run that is killed in the middle."""
    path = folder / "killed.sqlite3"
    server = Server("--ledger", str(path))
    answered, at = asyncio.run(_kill_in_the_middle(server, clients, seconds))
    server.process.wait()
    found = rows(path)
    old = {i for i, when in answered.items() if when < at - ACKNOWLEDGED}
    return {
        "answered": len(answered),
        "answered a second before": len(old),
        "of those without a row": len(old - found.keys()),
        "later ones without a row": len(answered.keys() - old - found.keys()),
        "rows that are there twice": sum(count > 1 for count in found.values()),
    }


def pairs(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """With a ledger and without, in turns."""
    throughput, processor = [], []
    servers = [Server("--ledger", str(folder / "pairs.sqlite3")), Server()]
    try:
        for server in servers:
            turn(server, options.clients, options.turn)
        for pair in range(options.pairs):
            order = servers if pair % 2 else servers[::-1]
            found = {s.url: turn(s, options.clients, options.turn) for s in order}
            ours, plain = (found[s.url] for s in servers)
            throughput.append(ours[0] / plain[0])
            processor.append(ours[1] / plain[1])
    finally:
        for server in servers:
            server.stop()
    return {"requests/s, ratio": spread(throughput), "processor time, ratio": spread(processor)}


def spread(ratios: list[float]) -> str:
    """Median; geometric mean with its 95 % interval; lowest and highest.

    Geometric, for else noise alone would make both a ratio and its inverse larger than one.
    """
    logs = [math.log(ratio) for ratio in ratios]
    half = 1.96 * statistics.stdev(logs) / len(logs) ** 0.5 if len(logs) > 1 else float("nan")
    mean = math.exp(statistics.fmean(logs))
    middle = f"median {statistics.median(ratios):.3f}, mean {mean:.3f} +- {half:.3f}"
    return f"{middle} ({min(ratios):.3f}-{max(ratios):.3f})"


def main() -> int:
    """Runs all three; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--turn", type=int, default=256, help="requests at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ended = orderly(folder, options.clients, options.seconds)
        cut = killed(folder, options.clients, options.seconds)
        share = writers_share(folder, options.clients, options.seconds)
        ratios = pairs(folder, options)
    wrong = [
        *(f"orderly: {what}" for what, count in list(ended.items())[3:] if count),
        *(f"killed: {what}" for what in ("of those without a row", "rows that are there twice")
          if cut[what]),
    ]  # fmt: skip
    if not ended["answered"] == ended["rows"] == ended["counted by the server"]:
        wrong.append("orderly: the counts differ")
    return tell(
        {"orderly": ended, "killed": cut, "the writer's share": share, **ratios, "defects": wrong}
    )


if __name__ == "__main__":
    sys.exit(main())
