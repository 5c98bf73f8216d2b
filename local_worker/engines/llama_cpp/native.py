"""llama.cpp's library, with this project's attention in it where that was built for this machine.

The kernel has to be in the process before the library is: so everybody has the library from here.
"""

from __future__ import annotations

import importlib.metadata

from local_worker.engines.llama_cpp.attention import hook

_HOOK, _WHY_NOT = hook.find()

from llama_cpp import llama_cpp as lib  # noqa: E402  the kernel comes first

if _HOOK is not None and (_why := _HOOK.begin()) is not None:
    _HOOK, _WHY_NOT = None, _why

__all__ = ["lib", "library_version", "use_attention"]


def use_attention(*, own: bool) -> str | None:
    """Says whose attention is computed from now on, for all models in this process.

    Args:
        own: this project's rather than llama.cpp's.

    Returns:
        Why it is llama.cpp's although the other one was asked for; None where that is not so.
    """
    if _HOOK is not None:
        _HOOK.use(used=own)
    return _WHY_NOT if own and _HOOK is None else None


def library_version() -> str:
    """llama.cpp's and its Python binding's version, as one text."""
    binding = importlib.metadata.version("llama-cpp-python")
    return f"{lib.llama_version().decode()} (llama-cpp-python {binding})"
