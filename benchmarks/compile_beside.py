"""What the largest schema does to a stream beside it while it is compiled.

One stream of tokens; in turns, nothing else happens, or another client sends schemas of nearly the
most characters that are taken, four a second, each a new one, so that every one of them is
compiled. To tell what compiling does from what another request does, there are requests with small
schemas, too, and some that are refused after their schema was compiled: they ask for more tokens
than the context has. The times between the stream's chunks are compared.

    python benchmarks/compile_beside.py [--model FILE] [--turns 6]

Prints the figures, then one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
from common import CHAT, server_at, tell

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS = 200
SIZE = 125_000
"""Characters of a schema; 131,072 are taken."""

EVERY = 0.25
"""Seconds between two of them."""


def schema(number: int, most: int) -> dict[str, Any]:
    """One that nobody has sent before, of so many characters."""
    properties: dict[str, Any] = {}
    size = 0
    for index in itertools.count():
        values = [f"value {number} {index} {i}" for i in range(20)]
        properties[f"property_{number}_{index}"] = {"enum": values}
        size += len(json.dumps(values)) + 40
        if size > most:
            break
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False}  # fmt: skip


def gaps(url: str) -> list[float]:
    """Seconds between the chunks of one stream."""
    body = {"prompt": "river stone engine", "max_tokens": TOKENS, "ignore_eos": True,
            "stream": True, "temperature": 1}  # fmt: skip
    times = []
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=600) as response:
        times += [time.perf_counter() for line in response.iter_lines() if line.startswith("data:")]
    return [b - a for a, b in itertools.pairwise(times)]


class Compiling(threading.Thread):
    """Sends schemas of so many characters, until told to stop."""

    numbers = itertools.count()

    def __init__(self, url: str, size: int = SIZE, most: int = 1) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._stop_it = threading.Event()
        self._refused = most > 1
        self.bodies = [self._body(size, most) for _ in range(64)]
        self.seconds: list[float] = []

    def _body(self, size: int, most: int) -> bytes:
        form = {"name": "x", "schema": schema(next(self.numbers), size)}
        return json.dumps({
            "messages": [{"role": "user", "content": "x"}], "max_tokens": most,
            "response_format": {"type": "json_schema", "json_schema": form},
            "chat_template_kwargs": {"enable_thinking": False},
        }).encode()  # fmt: skip

    def run(self) -> None:
        """Until `stop`."""
        for body in self.bodies:
            start = time.perf_counter()
            response = httpx.post(f"{self._url}{CHAT}", content=body, timeout=600)
            expected = httpx.codes.BAD_REQUEST if self._refused else httpx.codes.OK
            assert response.status_code == expected, response.text[:300]
            self.seconds.append(time.perf_counter() - start)
            if self._stop_it.wait(max(0.0, EVERY - self.seconds[-1])):
                return

    def stop(self) -> None:
        """Ends it after the request in flight."""
        self._stop_it.set()
        self.join()


def percentile(values: list[float], share: float) -> float:
    """By rank."""
    return sorted(values)[int(share * (len(values) - 1))]


def _ratio(ones: list[float], others: list[float]) -> str:
    ratios = [a / b for a, b in zip(ones, others, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--turns", type=int, default=6)
    options = parser.parse_args()
    ways: dict[str, Callable[[], Compiling | None]] = {
        "alone": lambda: None,
        "beside the largest schemas, compiled and refused": lambda: Compiling(url, SIZE, 10**6),
        "beside small schemas": lambda: Compiling(url, 1),
        "beside the largest schemas": lambda: Compiling(url, SIZE),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    took: list[float] = []
    with server_at(options.url, "--model", options.model, "--skip-bandwidth") as url:
        for body in Compiling(url).bodies[:1]:  # the vocabulary is read for the first one
            httpx.post(f"{url}{CHAT}", content=body, timeout=600)
        gaps(url)
        for _ in range(options.turns):
            for way, begin in ways.items():
                compiling = begin()
                if compiling:
                    compiling.start()
                found[way].append(percentile(gaps(url), 0.99))
                if compiling:
                    compiling.stop()
                    took = compiling.seconds
    alone, *others = found
    return tell({
        **{f"ITL p99 {way}, ms": [round(1e3 * s, 1) for s in p99] for way, p99 in found.items()},
        **{f"{way}, ratio": _ratio(found[way], found[alone]) for way in others},
        "seconds a schema took": f"{statistics.median(took):.2f} ({len(took)} of them)",
        "defects": [],
    })  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
