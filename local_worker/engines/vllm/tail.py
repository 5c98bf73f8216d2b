"""What this process and its children print: kept while a model loads, let through afterwards.

A start that succeeds is nobody's business in its hundred lines; one that fails may need them all.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque

KEPT_LINES = 5000
_STDOUT, _STDERR = 1, 2


class Tail:
    """Stands between file descriptors 1 and 2 and where the latter went before."""

    def __init__(self, pipe: int, original: int) -> None:
        self._original = original
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._open = False
        self._lock = threading.Lock()
        threading.Thread(target=self._pump, args=(pipe,), daemon=True).start()

    @classmethod
    def begin(cls) -> Tail:
        """From now on, for this process and all that it starts."""
        pipe, theirs = os.pipe()
        original = os.dup(_STDERR)
        for descriptor in (_STDOUT, _STDERR):
            os.dup2(theirs, descriptor)
        os.close(theirs)
        return cls(pipe, original)

    def lines(self) -> list[str]:
        """What was kept, oldest first."""
        with self._lock:
            return [line.decode(errors="replace") for line in self._lines]

    def save(self) -> str:
        """Writes what was kept to a new file; returns its path."""
        with tempfile.NamedTemporaryFile(
            "w", prefix="local-worker-vllm-", suffix=".log", delete=False
        ) as file:
            file.writelines(self.lines())
            return file.name

    def let_through(self) -> None:
        """Writes what comes from now on to where stderr went before."""
        with self._lock:
            self._lines.clear()
            self._open = True

    def _pump(self, pipe: int) -> None:
        with os.fdopen(pipe, "rb") as lines:
            for line in lines:
                with self._lock:
                    if self._open:
                        os.write(self._original, line)
                    else:
                        self._lines.append(line)
