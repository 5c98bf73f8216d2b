"""llama.cpp's library, with this project's attention in it where the server has built that.

The kernel has to be in the process before the library is: so everybody gets the library from here.
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from local_worker.engines.llama_cpp.attention.hook import KERNEL, Hook

_HOOK = Hook(Path(os.environ[KERNEL])) if os.environ.get(KERNEL) else None

from llama_cpp import llama_cpp as lib  # noqa: E402  the kernel comes first

why_not_own_attention: str | None = None
"""Why the kernel is not used although it is there."""

if _HOOK is not None:
    why_not_own_attention = _HOOK.begin()
    _HOOK.use(used=why_not_own_attention is None)

own_attention = _HOOK is not None and why_not_own_attention is None
"""Whether the kernel computes what it can."""

__all__ = [
    "lib",
    "own_attention",
    "times_own_attention",
    "version",
    "why_not_own_attention",
]


def times_own_attention() -> int:
    """Attention operations that the kernel has computed in this process."""
    return 0 if _HOOK is None else _HOOK.times


def version() -> str:
    """llama.cpp's and its Python binding's version, as one text."""
    binding = importlib.metadata.version("llama-cpp-python")
    return f"{lib.llama_version().decode()} (llama-cpp-python {binding})"
