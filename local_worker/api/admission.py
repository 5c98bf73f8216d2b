"""How many sequences are in flight, and whether new ones are taken.

OPEN -> DRAINING      running ones go on, new ones are refused
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from local_worker.errors import DrainingError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Admission:
    """Counts sequences from admission to their end.

    Args:
        limit: sequences in flight at the most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._draining

    def enter(self, sequences: int) -> None:
        """Counts so many more sequences; each call needs its `leave`.

        Raises:
            DrainingError: the server is stopping.
            QueueFullError: too many are in flight.
        """
        if self._draining:
            raise DrainingError("the server is shutting down", retry_after=5)
        if self.in_flight + sequences > self._limit:
            raise QueueFullError(
                f"{self.in_flight} sequences are running or waiting and the limit is {self._limit}"
            )
        self.in_flight += sequences
        self._idle.clear()

    def leave(self, sequences: int) -> None:
        """So many sequences have ended, and their last bytes are out."""
        self.in_flight -= sequences
        if self.in_flight == 0:
            self._idle.set()

    @contextlib.contextmanager
    def admit(self, sequences: int) -> Iterator[None]:
        """Counts a request's sequences for the duration of the context; see `enter`."""
        self.enter(sequences)
        try:
            yield
        finally:
            self.leave(sequences)

    def drain(self) -> None:
        """OPEN -> DRAINING."""
        self._draining = True

    async def idle(self) -> None:
        """Returns when nothing is in flight."""
        await self._idle.wait()
