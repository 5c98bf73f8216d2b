"""Attention and products alone: this project's kernels beside ggml's own, in turns.

    .venv/bin/python benchmarks/kernels.py [--threads N] [--rounds N]

Microseconds of one operation (of one layer) of the shapes below, medians, and how far from the
exact result both are: the largest difference, for normally distributed numbers. That of products
is relative to the largest result.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from local_worker.engines.llama_cpp.kernels import check_attention, check_products
from local_worker.engines.llama_cpp.kernels.build import build
from local_worker.engines.llama_cpp.kernels.check_attention import Shape
from local_worker.engines.llama_cpp.kernels.check_products import Product
from local_worker.engines.llama_cpp.kernels.ggml import Q4_0, Q4_K, Q6_K, Q8_0, Ggml
from local_worker.engines.llama_cpp.kernels.hook import Hook

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from local_worker.engines.llama_cpp.kernels.ggml import Array

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

PRODUCTS = {
    "Q4_0, 3,072 by 1,024": [
        Product(Q4_0, rows, 3072, 1024) for rows in (1, 4, 6, 8, 32, 128, 512)
    ],
    "Q4_K, 3,072 by 1,024": [
        Product(Q4_K, rows, 3072, 1024) for rows in (1, 4, 6, 8, 32, 128, 512)
    ],
    "Q8_0, 3,072 by 1,024": [
        Product(Q8_0, rows, 3072, 1024) for rows in (1, 4, 6, 8, 32, 128, 512)
    ],
    "Q6_K, 32,768 by 1,024": [
        Product(Q6_K, rows, 32768, 1024) for rows in (1, 4, 6, 8, 32, 128, 512)
    ],
    "Q4_0, 8 of 64 experts, 704 by 2,816": [
        Product(Q4_0, rows, 704, 2816, 64, 8) for rows in (1, 4, 8, 32, 128)
    ],
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
        given, scale = check_attention.operands(shape), shape.key_size**-0.5
        wanted = check_attention.exact(given, scale)
        run = check_attention.operation(ggml, given, scale)
        print(line(name, run, wanted, hook, options), flush=True)
    for name, products in PRODUCTS.items():
        for product in products:
            operands = check_products.operands(ggml, product)
            wanted = check_products.exact(ggml, product, operands, operands.rows)
            largest = np.abs(wanted).max()
            run = check_products.operation(ggml, product, operands)
            title = f"{name}, {product.rows} row{'s' * (product.rows > 1)}"
            print(line(title, run, wanted, hook, options, largest), flush=True)


def line(
    name: str,
    operation: AbstractContextManager[Callable[[int], Array]],
    wanted: Array,
    hook: Hook,
    options: argparse.Namespace,
    unit: float = 1.0,
) -> str:
    """A row of the table."""
    took: dict[bool, list[float]] = {True: [], False: []}
    off: dict[bool, float] = {}
    with operation as compute:
        for _ in range(options.rounds):
            for own in took:
                hook.use(used=own)
                compute(options.threads)  # touches all memory
                start = time.perf_counter()
                result = compute(options.threads)
                took[own].append(time.perf_counter() - start)
                off[own] = float(np.abs(result - wanted).max() / unit)
    ours, ggmls = (statistics.median(took[key]) * 1e6 for key in (True, False))
    times = f"{ours:,.0f} | {ggmls:,.0f} | {ggmls / ours:.1f}"
    return f"| {name} | {times} | {off[True]:.0e} | {off[False]:.0e} |"


if __name__ == "__main__":
    main()
