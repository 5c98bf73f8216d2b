"""What the largest schema does to a stream beside it while it is compiled.

One stream of tokens; in turns, nothing else happens, or another client sends schemas of nearly the
most characters that are taken, each a new one, so that every one of them is compiled. The times
between the stream's chunks are compared.

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
from typing import Any

import httpx
from common import CHAT, server_at, tell

TOKENS = 200
SIZE = 250_000
"""Characters of a schema; 262,144 are taken."""


def schema(number: int) -> dict[str, Any]:
    """One that nobody has sent before."""
    properties: dict[str, Any] = {}
    size = 0
    for index in itertools.count():
        values = [f"value {number} {index} {i}" for i in range(20)]
        properties[f"property_{number}_{index}"] = {"enum": values}
        size += len(json.dumps(values)) + 40
        if size > SIZE:
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
    """Sends one schema after the other, until told to stop."""

    numbers = itertools.count()

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._stop_it = threading.Event()
        self.bodies = [self._body() for _ in range(64)]
        self.seconds: list[float] = []

    def _body(self) -> bytes:
        form = {"name": "x", "schema": schema(next(self.numbers))}
        return json.dumps({
            "messages": [{"role": "user", "content": "x"}], "max_tokens": 1,
            "response_format": {"type": "json_schema", "json_schema": form},
            "chat_template_kwargs": {"enable_thinking": False},
        }).encode()  # fmt: skip

    def run(self) -> None:
        """Until `stop`."""
        for body in self.bodies:
            if self._stop_it.is_set():
                return
            start = time.perf_counter()
            response = httpx.post(f"{self._url}{CHAT}", content=body, timeout=600)
            assert response.status_code == httpx.codes.OK, response.text[:300]
            self.seconds.append(time.perf_counter() - start)

    def stop(self) -> None:
        """Ends it after the request in flight."""
        self._stop_it.set()
        self.join()


def percentile(values: list[float], share: float) -> float:
    """By rank."""
    return sorted(values)[int(share * (len(values) - 1))]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--turns", type=int, default=6)
    options = parser.parse_args()
    alone, beside, took = [], [], []
    with server_at(options.url, "--model", options.model, "--skip-bandwidth") as url:
        for body in Compiling(url).bodies[:1]:  # the vocabulary is read for the first one
            httpx.post(f"{url}{CHAT}", content=body, timeout=600)
        gaps(url)
        for _ in range(options.turns):
            alone.append(percentile(gaps(url), 0.99))
            compiling = Compiling(url)
            compiling.start()
            beside.append(percentile(gaps(url), 0.99))
            compiling.stop()
            took += compiling.seconds
    ratios = [b / a for a, b in zip(alone, beside, strict=True)]
    return tell({
        "ITL p99 alone, ms": [round(1e3 * s, 1) for s in alone],
        "ITL p99 beside a compilation, ms": [round(1e3 * s, 1) for s in beside],
        "ratio": f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        "seconds a schema took": f"{statistics.median(took):.2f} ({len(took)} of them)",
        "defects": [],
    })  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
