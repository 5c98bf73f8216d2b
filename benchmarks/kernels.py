"""Attention alone: this project's kernel beside ggml's own, in turns, by what rows see.

    .venv/bin/python benchmarks/attention.py [--threads N] [--rounds N]

Microseconds of one operation (one layer) of the shapes below, medians, and how far from the exact
result both are: the largest difference, for normally distributed numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from local_worker.engines.llama_cpp.attention.build import build
from local_worker.engines.llama_cpp.attention.check import Ggml, Shape, exact, operands
from local_worker.engines.llama_cpp.attention.hook import Hook

if TYPE_CHECKING:
    from local_worker.engines.llama_cpp.attention.check import Operands

QWEN3 = (16, 8, 128, 128)
SHAPES = {
    "one stream, 256 tokens": Shape(1, 1, 256, *QWEN3, "past"),
    "one stream, 2,048 tokens": Shape(1, 1, 2048, *QWEN3, "past"),
    "one stream, 16,384 tokens": Shape(1, 1, 16384, *QWEN3, "past"),
    "8 streams of 160 in one buffer": Shape(1, 8, 1280, *QWEN3, "own"),
    "26 streams of 100, cells woven": Shape(1, 26, 2600, *QWEN3, "woven"),
    "16 streams that share 512": Shape(1, 16, 1024, *QWEN3, "shared"),
    "9 prompt tokens behind 247": Shape(1, 9, 256, *QWEN3, "past"),
    "a prompt of 128": Shape(1, 128, 128, *QWEN3, "past"),
    "a prompt of 512": Shape(1, 512, 512, *QWEN3, "past"),
    "512 prompt tokens behind 3,584": Shape(1, 512, 4096, *QWEN3, "past"),
    "32 heads over 4, 1,024 tokens": Shape(1, 1, 1024, 32, 4, 128, 128, "past"),
    "heads of 256, 8 rows, 1,024": Shape(1, 8, 1024, 16, 8, 256, 256, "past"),
}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    hook = Hook(build())  # before llama.cpp is loaded
    ggml = Ggml()
    if (why := hook.begin()) is not None:
        raise SystemExit(why)
    print("| | own, us | ggml's, us | ratio | own off by | ggml's |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, shape in SHAPES.items():
        print(line(name, shape, hook, ggml, options), flush=True)


def line(name: str, shape: Shape, hook: Hook, ggml: Ggml, options: argparse.Namespace) -> str:
    """A row of the table."""
    given, scale = operands(shape), shape.key_size**-0.5
    took: dict[bool, list[float]] = {True: [], False: []}
    off: dict[bool, float] = {}
    wanted = exact(given, scale)
    for _ in range(options.rounds):
        for own in took:
            hook.use(used=own)
            seconds, result = timed(ggml, given, scale, options.threads)
            took[own].append(seconds)
            off[own] = float(np.abs(result - wanted).max())
    ours, ggmls = (statistics.median(took[key]) * 1e6 for key in (True, False))
    times = f"{ours:,.0f} | {ggmls:,.0f} | {ggmls / ours:.1f}"
    return f"| {name} | {times} | {off[True]:.0e} | {off[False]:.0e} |"


def timed(ggml: Ggml, given: Operands, scale: float, threads: int) -> tuple[float, np.ndarray]:
    """Seconds of an operation, after one that has touched all memory; and its result."""
    with ggml.graph(given, scale) as compute:
        compute(threads)
        start = time.perf_counter()
        result = compute(threads)
        return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
