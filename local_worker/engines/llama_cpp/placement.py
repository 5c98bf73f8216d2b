"""Which tensors stay in main memory beside a GPU."""

from __future__ import annotations

import ctypes
from pathlib import Path

from local_worker.engines.llama_cpp.native import lib


class _TensorOverride(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def expert_overrides(layers: int) -> ctypes.Array[_TensorOverride] | None:
    """Keeps the experts of the first layers in main memory: a null-terminated C array."""
    if layers == 0:
        return None
    folder = Path(lib.__file__).parent / "lib"
    suffix = "dylib" if (folder / "libggml-cpu.dylib").exists() else "so"
    ggml = ctypes.CDLL(str(folder / f"libggml-base.{suffix}"))
    ggml.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    pattern = rf"blk\.({'|'.join(str(n) for n in range(layers))})\.ffn_(up|down|gate|gate_up)_exps"
    array = (_TensorOverride * 2)()
    array[0] = _TensorOverride(pattern.encode(), ggml.ggml_backend_cpu_buffer_type())
    return array
