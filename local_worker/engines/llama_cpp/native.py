"""llama.cpp's library, with this project's attention in it where that was built for this machine.

The kernel has to be in the process before the library is: so everybody has the library from here.
"""

from __future__ import annotations

from local_worker.engines.llama_cpp.attention import hook

_HOOK, _WHY_NOT = hook.find()

from llama_cpp import llama_cpp as lib  # noqa: E402  the kernel comes first

if _HOOK is not None and (_why := _HOOK.begin()) is not None:
    _HOOK, _WHY_NOT = None, _why

__all__ = ["lib", "use_attention"]


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
