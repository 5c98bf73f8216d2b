"""The product kernel's results beside the exact ones, and beside ggml's."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from local_worker.engines.llama_cpp.kernels.ggml import Q4_0, Q4_K, Q6_K, Q8_0

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local_worker.engines.llama_cpp.kernels.ggml import Array, Ggml, Graph
    from local_worker.engines.llama_cpp.kernels.hook import Hook

BLOCK = 32
"""Activations that share a scale."""

CLOSE = 1e-5
"""Of the exact product with activations that are quantised likewise, to its own size."""

NEAR = 0.03
"""Of the product with the activations themselves, ggml's included: that of eight bits."""

REPACKED = frozenset({Q4_0, Q4_K})
"""Types that ggml keeps in another order on processors with AVX2."""


@dataclass(frozen=True, slots=True)
class Product:
    """An operation.

    Attributes:
        kind: type of the weights.
        rows: of activations.
        count: rows of weights: numbers of a result.
        size: numbers of a row.
        experts: that have such weights each; 0 where there are none.
        uses: experts that a row goes to.
        shared: whether these get the same activations.
    """

    kind: int
    rows: int
    count: int
    size: int
    experts: int = 0
    uses: int = 1
    shared: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the weights: experts, or 1; rows, and numbers of each."""
        return max(1, self.experts), self.count, self.size


PRODUCTS = (
    *(
        Product(kind, rows, count, size)
        for kind, count, size in (
            (Q4_0, 88, 192),
            (Q4_K, 72, 512),
            (Q6_K, 37, 256),
            (Q8_0, 51, 192),
        )
        for rows in (*range(1, 14), 21)
    ),
    # More than one piece, of more than one tile, and the last ones not whole.
    Product(Q4_0, 5, 4096, 64),
    *(
        Product(kind, 9, count, size)
        for kind, count, size in (
            (Q4_0, 1000, 64),
            (Q4_K, 1000, 256),
            (Q6_K, 1003, 256),
            (Q8_0, 1003, 64),
        )
    ),
    Product(Q4_0, 6, 24, 64, experts=5, uses=2),
    Product(Q4_K, 19, 80, 256, experts=3, uses=2, shared=False),
    Product(Q6_K, 9, 20, 256, experts=4, uses=3),
    Product(Q8_0, 4, 12, 128, experts=4, uses=1),
)


@dataclass(frozen=True, slots=True)
class Operands:
    """Numbers of an operation.

    Attributes:
        weights: [experts or 1, count, size], as bytes of the product's kind.
        rows: [rows, uses or 1, size], FP32.
        ids: [rows, uses], whom each goes to; None without experts.
    """

    weights: Array
    rows: Array
    ids: Array | None


def operands(ggml: Ggml, product: Product, seed: int = 0) -> Operands:
    """Normally distributed ones."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=product.shape)
    each = 1 if product.shared else product.uses
    rows = rng.normal(size=(product.rows, each, product.size)).astype(np.float32)
    rows[0, 0, :BLOCK] = 0.0
    ids = None
    if product.experts:
        order = rng.random((product.rows, product.experts)).argsort(axis=1)
        ids = order[:, : product.uses].astype(np.int32)
    return Operands(ggml.quantised(product.kind, weights), rows, ids)


def quantised(rows: Array) -> Array:
    """Activations as the kernel has them, in FP64: eight bits and a scale for each block."""
    blocks = rows.reshape(*rows.shape[:-1], -1, BLOCK)
    most = np.abs(blocks).max(-1, keepdims=True)
    factor = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    numbers = np.rint(blocks * factor).astype(np.float64)
    result: Array = (numbers * (most / np.float32(127))).reshape(rows.shape)
    return result


def exact(ggml: Ggml, product: Product, given: Operands, rows: Array) -> Array:
    """The product with these rows in FP64: [rows, uses, count]."""
    experts, count, size = product.shape
    with ggml.graph(given.weights.nbytes + 8 * experts * count * size) as graph:
        flat = (experts * count, size)
        all_rows = graph.tensor(np.arange(flat[0], dtype=np.int32))
        weights = graph.add("get_rows", graph.raw(product.kind, flat, given.weights), all_rows)
        values = graph.ending_in(weights, product.shape)(1).astype(np.float64)
    spread = np.broadcast_to(rows, (product.rows, product.uses, product.size)).astype(np.float64)
    result: Array = np.empty((product.rows, product.uses, product.count))
    if given.ids is None:
        result[:] = spread @ values[0].T
        return result
    for expert in range(product.experts):
        mine = given.ids == expert
        result[mine] = spread[mine] @ values[expert].T
    return result


@contextmanager
def operation(ggml: Ggml, product: Product, given: Operands) -> Iterator[Callable[[int], Array]]:
    """One of ggml's; calling it with a number of threads computes it.

    Returns:
        [rows, uses, count], by the kernel or without it, as was said last.
    """
    size = given.weights.nbytes + given.rows.nbytes + 4 * product.rows * product.count * 8
    with ggml.graph(size) as graph, _weights(ggml, graph, product, given) as weights:
        if given.ids is None:
            result = graph.add("mul_mat", weights, graph.tensor(given.rows[:, 0]))
        else:
            # llama.cpp's are the first few of an order of all experts.
            others = np.full((product.rows, 3), -1, np.int32)
            order = graph.tensor(np.concatenate([given.ids, others], axis=1))
            ids = graph.add("view_2d", order, product.uses, product.rows, 4 * (product.uses + 3), 0)
            result = graph.add("mul_mat_id", weights, graph.tensor(given.rows), ids)
        yield graph.ending_in(result, (product.rows, product.uses, product.count))


@contextmanager
def _weights(ggml: Ggml, graph: Graph, product: Product, given: Operands) -> Iterator[int]:
    if product.kind in REPACKED:
        with ggml.repacked(product.kind, product.shape, given.weights) as weights:
            yield weights
    else:
        yield graph.raw(product.kind, product.shape, given.weights)


def computed(ggml: Ggml, product: Product, given: Operands, threads: int = 2) -> Array:
    """Its result."""
    with operation(ggml, product, given) as compute:
        return compute(threads)


def failure(hook: Hook, ggml: Ggml, product: Product) -> str | None:
    """What is wrong with the kernel's results, in words; None when nothing is."""
    given = operands(ggml, product)
    wanted = exact(ggml, product, given, quantised(given.rows))
    unrounded = exact(ggml, product, given, given.rows)
    size = np.abs(unrounded).max()
    hook.use(used=False)
    without = np.abs(computed(ggml, product, given) - unrounded).max() / size
    hook.use(used=True)
    before = hook.products
    found = computed(ggml, product, given)
    if hook.products != before + 1:
        return f"ggml does not call it for {product}"
    if not (off := np.abs(found - wanted).max() / size) < CLOSE:
        return f"{off} off for {product}"
    if not max(without, np.abs(found - unrounded).max() / size) < NEAR:
        return f"ggml's own are {without} off for {product}: it is not understood"
    if not np.array_equal(found, alone(ggml, product, given)):
        return f"results depend on what is beside them for {product}"
    if not all(np.array_equal(found, computed(ggml, product, given, n)) for n in (1, 3)):
        return f"results depend on the threads for {product}"
    return None


def alone(ggml: Ggml, product: Product, given: Operands) -> Array:
    """Likewise, each row in an operation of its own."""
    one = replace(product, rows=1)
    return np.concatenate(
        [
            computed(
                ggml,
                one,
                replace(
                    given,
                    rows=given.rows[i : i + 1],
                    ids=None if given.ids is None else given.ids[i : i + 1],
                ),
            )
            for i in range(product.rows)
        ]
    )
