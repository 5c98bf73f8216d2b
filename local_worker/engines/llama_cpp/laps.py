"""Where the engine process' time goes."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING

from local_worker.types import EngineSeconds

if TYPE_CHECKING:
    from collections.abc import Callable


class Laps:
    """Hands every second of a loop to one of its parts.

    Args:
        now: the clock.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._last = now()
        self._seconds = dict.fromkeys((f.name for f in fields(EngineSeconds)), 0.0)
        self._asked = 0.0

    def end(self, part: str) -> float:
        """What was done since the last lap was this. Returns its seconds."""
        now = self._now()
        seconds, self._last = now - self._last, now
        self._seconds[part] += seconds
        return seconds

    def skip(self) -> None:
        """Nothing was done since the last lap but waiting."""
        self._last = self._now()

    def taken(self) -> float:
        """Seconds of all parts since this was last asked."""
        total = sum(self._seconds.values())
        taken, self._asked = total - self._asked, total
        return taken

    def seconds(self) -> EngineSeconds:
        """So far."""
        return EngineSeconds(**self._seconds)
