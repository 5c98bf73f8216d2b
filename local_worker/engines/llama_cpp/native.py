"""llama.cpp's library, with this project's kernels in it where the server has built that.

The kernels have to be in the process before the library is: everybody gets the library from here.
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from local_worker.engines.llama_cpp.kernels.hook import KERNELS, Hook

_HOOK: Hook | None = None

why_not_own_kernels: str | None = None
"""Why the kernels are not used although they are there."""

if os.environ.get(KERNELS):
    try:
        _HOOK = Hook(Path(os.environ[KERNELS]))
    except (OSError, AttributeError) as error:  # it cannot be loaded, or is another library
        why_not_own_kernels = str(error)

from llama_cpp import llama_cpp as lib  # noqa: E402  the kernels come first

if _HOOK is not None:
    why_not_own_kernels = _HOOK.begin()
    _HOOK.use(used=why_not_own_kernels is None)

own_kernels = _HOOK is not None and why_not_own_kernels is None
"""Whether the kernels compute what they can."""

__all__ = [
    "computed",
    "lib",
    "own_kernels",
    "version",
    "why_not_own_kernels",
]


def computed() -> tuple[int, int]:
    """Operations of attention, and products, that the kernels have computed in this process."""
    return (0, 0) if _HOOK is None else (_HOOK.attentions, _HOOK.products)


def version() -> str:
    """llama.cpp's and its Python binding's version, as one text."""
    binding = importlib.metadata.version("llama-cpp-python")
    return f"{lib.llama_version().decode()} (llama-cpp-python {binding})"
