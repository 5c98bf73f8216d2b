"""What llama.cpp says when something goes wrong."""

from __future__ import annotations

import ctypes
from collections import deque

from local_worker.engines.llama_cpp.native import lib

_LOG_LEVEL_WARN = 3
_LOG_LEVEL_CONT = 5


class NativeLog:
    """Keeps the library's last words of warning: they are the best account of a failure."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=20)
        self._level = 0
        self._callback = lib.llama_log_callback(self._write)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _write(self, level: int, text: bytes, _: object) -> None:
        self._level = self._level if level == _LOG_LEVEL_CONT else level
        if self._level >= _LOG_LEVEL_WARN and text.strip():
            self.lines.append(text.decode(errors="replace").strip())

    def last_words(self) -> str:
        """The end of it, for a message."""
        return "; ".join(list(self.lines)[-3:]) or "llama.cpp gave no reason"
