"""Compares the kernel's results with the exact ones, and with what ggml computes without it.

It goes through ggml itself, a graph of one operation: so what is checked is also that tensors lie
in memory as hook.cpp believes, and that ggml calls it.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from local_worker.engines.llama_cpp.attention.build import ggml_library
from local_worker.engines.llama_cpp.attention.hook import Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"

CLOSE, GGMLS_CLOSE = 1e-5, 2e-2
"""Of the exact result, for numbers around one: sums in FP32, and ggml's in FP16."""

SEEN = 0.3
"""Share of the cells that a row sees, where it may see any."""

_F32, _F16 = 0, 1
_ROOM = 32 << 20
"""Bytes for results, what threads work in, and the graph itself."""


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


class _Init(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class Ggml:
    """As much of ggml as it takes to compute one operation."""

    def __init__(self) -> None:
        cpu = ggml_library()
        self._base = ctypes.CDLL(str(cpu.with_name("libggml-base.so.0")))
        self._cpu = ctypes.CDLL(str(cpu))
        pointer, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        for name, result, arguments in (
            ("ggml_init", pointer, [_Init]),
            ("ggml_free", None, [pointer]),
            ("ggml_new_tensor_4d", pointer, [pointer, ctypes.c_int, *[whole] * 4]),
            ("ggml_get_data", pointer, [pointer]),
            ("ggml_permute", pointer, [pointer, pointer, *[ctypes.c_int] * 4]),
            ("ggml_flash_attn_ext", pointer, [*[pointer] * 5, *[number] * 3]),
            ("ggml_new_graph", pointer, [pointer]),
            ("ggml_build_forward_expand", None, [pointer, pointer]),
        ):
            function = getattr(self._base, name)
            function.restype, function.argtypes = result, arguments
        self._cpu.ggml_graph_compute_with_ctx.argtypes = [pointer, pointer, ctypes.c_int]

    def attention(self, given: Operands, scale: float, threads: int = 2) -> Array:
        """[streams, rows, heads, value_size], with or without the kernel, as was said last."""
        with self.graph(given, scale) as compute:
            return compute(threads)

    @contextmanager
    def graph(self, given: Operands, scale: float) -> Iterator[Callable[[int], Array]]:
        """A graph of one operation; calling it with a number of threads computes it."""
        arrays = given.queries, given.keys, given.values, given.mask
        size = sum(array.nbytes for array in arrays) + _ROOM
        context = self._base.ggml_init(_Init(size, None, False))
        try:
            heads_apart = [
                self._base.ggml_permute(context, self._tensor(context, array), 0, 2, 1, 3)
                for array in arrays[:3]
            ]
            mask = self._tensor(context, given.mask)
            result = self._base.ggml_flash_attn_ext(context, *heads_apart, mask, scale, 0.0, 0.0)
            graph = self._base.ggml_new_graph(context)
            self._base.ggml_build_forward_expand(graph, result)

            def compute(threads: int) -> Array:
                self._cpu.ggml_graph_compute_with_ctx(context, graph, threads)
                out = np.empty((*given.queries.shape[:3], given.values.shape[3]), np.float32)
                ctypes.memmove(out.ctypes.data, self._base.ggml_get_data(result), out.nbytes)
                return out

            yield compute
        finally:
            self._base.ggml_free(context)

    def _tensor(self, context: int, array: Array) -> int:
        kind = _F32 if array.dtype == np.float32 else _F16
        tensor = self._base.ggml_new_tensor_4d(context, kind, *reversed(array.shape))
        data = np.ascontiguousarray(array)
        ctypes.memmove(self._base.ggml_get_data(tensor), data.ctypes.data, data.nbytes)
        return int(tensor)


def failure(hook: Hook, ggml: Ggml, shape: Shape) -> str | None:
    """What is wrong with the kernel's results, in words; None when nothing is."""
    given, scale = operands(shape), shape.key_size**-0.5
    wanted = exact(given, scale)
    hook.use(used=False)
    without = np.abs(ggml.attention(given, scale) - wanted).max()
    hook.use(used=True)
    before = hook.times
    found = ggml.attention(given, scale)
    if hook.times != before + 1:
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
    return np.concatenate([ggml.attention(row, scale) for row in rows], axis=1)


def main() -> None:
    """Entry point: `python -m local_worker.engines.llama_cpp.attention.check FILE`."""
    hook = Hook(Path(sys.argv[1]))
    ggml = Ggml()
    if (why := hook.begin()) is not None:
        sys.exit(why)
    for shape in SHAPES:
        if (why := failure(hook, ggml, shape)) is not None:
            sys.exit(why)


if __name__ == "__main__":
    main()
