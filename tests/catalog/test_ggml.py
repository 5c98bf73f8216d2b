from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest

from local_worker.catalog.ggml import TENSOR_TYPES


def native_library() -> Path | None:
    spec = importlib.util.find_spec("llama_cpp")
    folder = Path(spec.origin).parent / "lib" if spec and spec.origin else Path("nowhere")
    return next((path for path in folder.glob("libggml-base.*") if path.is_file()), None)


@pytest.mark.skipif(native_library() is None, reason="llama-cpp-python is not installed")
def test_the_sizes_are_those_of_the_native_library():
    library = ctypes.CDLL(str(native_library()))
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    for number, kind in TENSOR_TYPES.items():
        assert library.ggml_type_name(number).decode().upper() == kind.name.upper()
        assert library.ggml_blck_size(number) == kind.block
        assert library.ggml_type_size(number) == kind.size
