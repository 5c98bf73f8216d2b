"""Questions to an engine process that are not requests: each has a number, and one answer."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_worker.engines.process.messages import Answer


class Calls:
    """Those that wait for their answers."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._numbers = itertools.count()

    def number(self) -> int:
        """Of a new call."""
        return next(self._numbers)

    async def ask(self, number: int, send: Callable[[], None]) -> Answer:
        """Sends a call and waits for its answer; raises what `fail` is given."""
        call: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = call
        try:
            send()
            return await call
        finally:
            self._waiting.pop(number, None)

    def answer(self, event: Answer) -> None:
        """One has come; nobody may wait for it any more."""
        call = self._waiting.pop(event.call_id, None)
        if call is not None and not call.done():
            call.set_result(event)

    def fail(self, error: Exception) -> None:
        """None will come."""
        calls, self._waiting = self._waiting, {}
        for call in calls.values():
            if not call.done():
                call.set_exception(error)
