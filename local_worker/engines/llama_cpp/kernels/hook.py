"""The compiled kernel in this process: found, and put before llama.cpp's own."""

from __future__ import annotations

import ctypes
from pathlib import Path

from local_worker.engines.llama_cpp.kernels.build import ggml_library

KERNELS = "LOCAL_WORKER_KERNELS"
"""Tells the engine process which file it is to load; without it, all are llama.cpp's."""


class Hook:
    """The library, loaded. It does nothing before `begin`.

    The dynamic linker gives a name to whoever was loaded first for everybody: this has to be there
    before llama.cpp is.

    Args:
        path: of it.

    Raises:
        OSError: it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._native = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._native.local_worker_kernels_begin.restype = ctypes.c_char_p
        self._native.local_worker_kernels_multiply.restype = ctypes.c_bool
        for name in ("attentions", "products"):
            getattr(self._native, f"local_worker_kernels_{name}").restype = ctypes.c_int64

    def begin(self) -> str | None:
        """Finds llama.cpp's own, which is loaded by now, and which is to be begun with.

        Returns:
            Why it must stay in use: another one was loaded than the kernel was checked with, which
            `LD_LIBRARY_PATH` can bring about. None where all is well.

        Raises:
            ImportError: there is none, and this one is already in its place.
        """
        wanted = ggml_library()
        found = self._native.local_worker_kernels_begin(wanted.name.encode())
        if found is None:
            raise ImportError(f"{wanted.name} is not loaded, or not as it was compiled")
        path = Path(found.decode())
        return None if path.samefile(wanted) else f"{path} was loaded instead of {wanted}"

    @property
    def multiplies(self) -> bool:
        """Whether it has products for this processor, besides attention."""
        return bool(self._native.local_worker_kernels_multiply())

    def use(self, *, used: bool) -> None:
        """Whether operations that it can compute are its own; while nothing is being computed."""
        self._native.local_worker_kernels_use(used)

    @property
    def attentions(self) -> int:
        """Operations of attention that it has computed."""
        return int(self._native.local_worker_kernels_attentions())

    @property
    def products(self) -> int:
        """Matrix products that it has computed."""
        return int(self._native.local_worker_kernels_products())
