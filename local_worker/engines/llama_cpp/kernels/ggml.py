"""As much of ggml as it takes to compute one operation, as llama.cpp would."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from local_worker.engines.llama_cpp.kernels.build import ggml_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"

F32, F16, Q4_0, Q8_0, Q4_K, Q6_K, I32 = 0, 1, 2, 8, 12, 14, 26
"""Types of tensors."""

_TYPES = {np.dtype(np.float32): F32, np.dtype(np.float16): F16, np.dtype(np.int32): I32}
_ROOM = 32 << 20
"""Bytes for results and for the graph itself."""


class _Init(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class Ggml:
    """Its two libraries."""

    def __init__(self) -> None:
        cpu = ggml_library()
        self.base = ctypes.CDLL(str(cpu.with_name("libggml-base.so.0")))
        self.cpu = ctypes.CDLL(str(cpu))
        pointer, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        for name, result, arguments in (
            ("ggml_init", pointer, [_Init]),
            ("ggml_free", None, [pointer]),
            ("ggml_new_tensor_4d", pointer, [pointer, ctypes.c_int, *[whole] * 4]),
            ("ggml_get_data", pointer, [pointer]),
            ("ggml_permute", pointer, [pointer, pointer, *[ctypes.c_int] * 4]),
            ("ggml_flash_attn_ext", pointer, [*[pointer] * 5, *[number] * 3]),
            (
                "ggml_view_2d",
                pointer,
                [pointer, pointer, *[whole] * 2, *[ctypes.c_size_t] * 2],
            ),
            ("ggml_mul_mat", pointer, [pointer] * 3),
            ("ggml_mul_mat_id", pointer, [pointer] * 4),
            ("ggml_get_rows", pointer, [pointer] * 3),
            ("ggml_new_graph", pointer, [pointer]),
            ("ggml_build_forward_expand", None, [pointer, pointer]),
            (
                "ggml_quantize_chunk",
                ctypes.c_size_t,
                [ctypes.c_int, *[pointer] * 2, *[whole] * 3, pointer],
            ),
            ("ggml_backend_alloc_ctx_tensors_from_buft", pointer, [pointer] * 2),
            ("ggml_backend_buffer_free", None, [pointer]),
            ("ggml_backend_graph_compute", ctypes.c_int, [pointer] * 2),
            ("ggml_backend_tensor_set", None, [*[pointer] * 2, *[ctypes.c_size_t] * 2]),
        ):
            function = getattr(self.base, name)
            function.restype, function.argtypes = result, arguments
        self.cpu.ggml_backend_cpu_init.restype = pointer
        self.cpu.ggml_backend_cpu_set_n_threads.argtypes = [pointer, ctypes.c_int]
        self._backend = self.cpu.ggml_backend_cpu_init()  # for as long as the process lasts
        self._silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, pointer)(_nothing)
        self.base.ggml_log_set(self._silent, None)
        self._repacked = self.cpu._Z35ggml_backend_cpu_repack_buffer_typev  # noqa: SLF001 - no C name
        self._repacked.restype = pointer

    @contextmanager
    def graph(self, size: int) -> Iterator[Graph]:
        """An empty one, with room for so many bytes of operands."""
        context = self.base.ggml_init(_Init(size + _ROOM, None, False))
        try:
            yield Graph(self, context)
        finally:
            self.base.ggml_free(context)

    @contextmanager
    def repacked(self, kind: int, shape: tuple[int, ...], data: Array) -> Iterator[int]:
        """Weights in the order in which ggml keeps them for its products.

        Args:
            kind: of the tensor.
            shape: of it, the innermost dimension last; up to four.
            data: as in a file.
        """
        context = self.base.ggml_init(_Init(1 << 16, None, True))
        buffer = None
        try:
            tensor = self.base.ggml_new_tensor_4d(context, kind, *_sizes(shape))
            buffer = self.base.ggml_backend_alloc_ctx_tensors_from_buft(context, self._repacked())
            self.base.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)
            yield tensor
        finally:
            self.base.ggml_backend_buffer_free(buffer)
            self.base.ggml_free(context)

    def compute(self, graph: int, threads: int) -> None:
        """Computes a graph, as llama.cpp would.

        Raises:
            RuntimeError: it says that it could not.
        """
        self.cpu.ggml_backend_cpu_set_n_threads(self._backend, threads)
        if self.base.ggml_backend_graph_compute(self._backend, graph):
            raise RuntimeError("ggml cannot compute this")

    def quantised(self, kind: int, weights: Array) -> Array:
        """Bytes of weights, as in a file. Their rows are the last dimension."""
        values = np.ascontiguousarray(weights, np.float32)
        size = values.shape[-1]
        out = np.zeros(values.nbytes, np.uint8)
        used = self.base.ggml_quantize_chunk(
            kind, values.ctypes.data, out.ctypes.data, 0, values.size // size, size, None
        )
        return out[:used]


class Graph:
    """Operands, and one operation on them."""

    def __init__(self, ggml: Ggml, context: int) -> None:
        self._ggml = ggml
        self._context = context

    def tensor(self, array: Array) -> int:
        """A tensor with these numbers."""
        data = np.ascontiguousarray(array)
        return self.raw(_TYPES[data.dtype], array.shape, data)

    def raw(self, kind: int, shape: tuple[int, ...], data: Array) -> int:
        """A tensor with these bytes."""
        base = self._ggml.base
        tensor = base.ggml_new_tensor_4d(self._context, kind, *_sizes(shape))
        ctypes.memmove(base.ggml_get_data(tensor), data.ctypes.data, data.nbytes)
        return int(tensor)

    def add(self, name: str, *operands: float) -> int:
        """An operation, by the name of its function without `ggml_`."""
        return int(getattr(self._ggml.base, f"ggml_{name}")(self._context, *operands))

    def ending_in(self, result: int, shape: tuple[int, ...]) -> Callable[[int], Array]:
        """What computes the graph with a number of threads, and returns its result in FP32."""
        base = self._ggml.base
        graph = base.ggml_new_graph(self._context)
        base.ggml_build_forward_expand(graph, result)

        def compute(threads: int) -> Array:
            self._ggml.compute(graph, threads)
            out = np.empty(shape, np.float32)
            ctypes.memmove(out.ctypes.data, base.ggml_get_data(result), out.nbytes)
            return out

        return compute


def _nothing(*_: object) -> None:
    """Of a log that names every tensor."""


def _sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """As ggml has them: the innermost first, and always four."""
    return (*reversed(shape), *[1] * (4 - len(shape)))
