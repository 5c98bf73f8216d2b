"""The attention kernel's results beside the exact ones, and beside ggml's."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local_worker.engines.llama_cpp.kernels.ggml import Array, Ggml
    from local_worker.engines.llama_cpp.kernels.hook import Hook

CLOSE, GGMLS_CLOSE = 1e-5, 2e-2
"""Of the exact result, for numbers around one: sums in FP32, and ggml's in FP16."""

SEEN = 0.3
"""Share of the cells that a row sees, where it may see any."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of an operation.

    Attributes:
        streams: buffers that are computed apart.
        rows: of each.
        cells: that there are to see.
        heads: of the queries.
        kv_heads: of keys and values.
        key_size: numbers of a head's key.
        value_size: likewise.
        sees: which cells a row sees: `past`, `any`, `shared` and then its own, `own`, or its own
            that are `woven` into those of others; with `weighted`, masks say how much, too.
    """

    streams: int
    rows: int
    cells: int
    heads: int
    kv_heads: int
    key_size: int
    value_size: int
    sees: str


SHAPES = (
    Shape(1, 1, 256, 16, 8, 128, 128, "past"),
    Shape(1, 7, 300, 16, 8, 128, 128, "shared"),
    Shape(4, 3, 256, 8, 8, 64, 64, "any"),
    Shape(1, 33, 512, 12, 2, 256, 256, "own"),
    Shape(2, 70, 512, 6, 2, 96, 80, "past"),
    Shape(1, 5, 77, 16, 1, 512, 512, "shared"),
    Shape(8, 1, 320, 8, 4, 32, 48, "any"),
    Shape(1, 26, 700, 16, 8, 128, 128, "woven"),
    Shape(2, 5, 200, 6, 2, 64, 64, "weighted"),
)


@dataclass(frozen=True, slots=True)
class Operands:
    """Numbers of an operation, first stream, then row or cell, then head.

    Attributes:
        queries: [streams, rows, heads, key_size], FP32.
        keys: [streams, cells, kv_heads, key_size], FP16.
        values: [streams, cells, kv_heads, value_size], FP16.
        mask: [streams, 1, rows, cells], FP16: 0, or minus infinity where a row does not see a cell.
    """

    queries: Array
    keys: Array
    values: Array
    mask: Array


def operands(shape: Shape, seed: int = 0) -> Operands:
    """Normally distributed ones."""
    rng = np.random.default_rng(seed)
    s, r, c = shape.streams, shape.rows, shape.cells
    sees = np.stack([_seen(shape, rng) for _ in range(s)])
    mask = np.where(sees, 0.0, -np.inf).astype(np.float16)
    if shape.sees == "weighted":
        mask += rng.normal(size=mask.shape).astype(np.float16)
    return Operands(
        rng.normal(size=(s, r, shape.heads, shape.key_size)).astype(np.float32),
        rng.normal(size=(s, c, shape.kv_heads, shape.key_size)).astype(np.float16),
        rng.normal(size=(s, c, shape.kv_heads, shape.value_size)).astype(np.float16),
        mask.reshape(s, 1, r, c),
    )


def _seen(shape: Shape, rng: np.random.Generator) -> Array:
    rows: Array = np.arange(shape.rows)[:, None]
    cells: Array = np.arange(shape.cells)[None, :]
    first = shape.cells // 2 if shape.sees == "shared" else 0
    each = max(1, (shape.cells - first) // shape.rows)
    ways: dict[str, Array] = {
        "past": cells <= shape.cells - shape.rows + rows,
        "any": (rng.random((shape.rows, shape.cells)) < SEEN) | (cells == rows),
        "woven": cells % shape.rows == rows,
        "weighted": cells <= shape.cells - shape.rows + rows,
        "shared": (cells < first) | ((cells - first) // each == rows),
        "own": cells // each == rows,
    }
    return ways[shape.sees]


def exact(given: Operands, scale: float) -> Array:
    """Attention in FP64: [streams, rows, heads, value_size]."""
    group = given.queries.shape[2] // given.keys.shape[2]
    keys, values = (
        np.repeat(part.astype(np.float64), group, axis=2) for part in (given.keys, given.values)
    )
    scores = np.einsum("srhd,schd->srhc", given.queries.astype(np.float64), keys) * scale
    scores = scores + given.mask.astype(np.float64).transpose(0, 2, 1, 3)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    result: Array = np.einsum("srhc,schd->srhd", weights, values)
    return result


@contextmanager
def operation(ggml: Ggml, given: Operands, scale: float) -> Iterator[Callable[[int], Array]]:
    """One of ggml's; calling it with a number of threads computes it.

    Returns:
        [streams, rows, heads, value_size], by the kernel or without it, as was said last.
    """
    arrays = given.queries, given.keys, given.values
    with ggml.graph(sum(array.nbytes for array in (*arrays, given.mask))) as graph:
        apart = [graph.add("permute", graph.tensor(array), 0, 2, 1, 3) for array in arrays]
        mask = graph.tensor(given.mask)
        result = graph.add("flash_attn_ext", *apart, mask, scale, 0.0, 0.0)
        yield graph.ending_in(result, (*given.queries.shape[:3], given.values.shape[3]))


def computed(ggml: Ggml, given: Operands, scale: float) -> Array:
    """Its result, with two threads."""
    with operation(ggml, given, scale) as compute:
        return compute(2)


def failure(hook: Hook, ggml: Ggml, shape: Shape) -> str | None:
    """What is wrong with the kernel's results, in words; None when nothing is."""
    given, scale = operands(shape), shape.key_size**-0.5
    wanted = exact(given, scale)
    hook.use(used=False)
    without = np.abs(computed(ggml, given, scale) - wanted).max()
    hook.use(used=True)
    before = hook.attentions
    found = computed(ggml, given, scale)
    if hook.attentions != before + 1:
        return f"ggml does not call it for {shape}"
    if not (off := np.abs(found - wanted).max()) < CLOSE:
        return f"{off} off for {shape}"
    if not without < GGMLS_CLOSE:
        return f"ggml's own are {without} off for {shape}: it is not understood"
    if not np.array_equal(found, alone(ggml, given, scale)):
        return f"results depend on what is beside them for {shape}"
    return None


def alone(ggml: Ggml, given: Operands, scale: float) -> Array:
    """Likewise, each row in an operation of its own."""
    rows = [
        replace(given, queries=given.queries[:, i : i + 1], mask=given.mask[:, :, i : i + 1])
        for i in range(given.queries.shape[1])
    ]
    return np.concatenate([computed(ggml, row, scale) for row in rows], axis=1)
