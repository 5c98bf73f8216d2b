"""What this process and its children print on stderr: kept while a model loads, then let through.

A start that succeeds is nobody's business in its hundred lines; one that fails needs all of them.
"""

from __future__ import annotations

import os
import threading
from collections import deque

KEPT_LINES = 2000
_STDERR = 2


class Tail:
    """Stands between file descriptor 2 and where it went before."""

    def __init__(self, pipe: int, original: int) -> None:
        self._original = original
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._open = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._pump, args=(pipe,), daemon=True)
        self._thread.start()

    @classmethod
    def of_stderr(cls) -> Tail:
        """From now on, for this process and all that it starts."""
        pipe, theirs = os.pipe()
        original = os.dup(_STDERR)
        os.dup2(theirs, _STDERR)
        os.close(theirs)
        return cls(pipe, original)

    def lines(self) -> list[str]:
        """What was kept, oldest first."""
        with self._lock:
            return [line.decode(errors="replace") for line in self._lines]

    def let_through(self, *, kept: bool = False) -> None:
        """Writes what comes from now on to the original, and what was kept if asked to."""
        with self._lock:
            for line in self._lines if kept else ():
                os.write(self._original, line)
            self._open = True

    def _pump(self, pipe: int) -> None:
        with os.fdopen(pipe, "rb") as lines:
            for line in lines:
                with self._lock:
                    self._lines.append(line)
                    if self._open:
                        os.write(self._original, line)
