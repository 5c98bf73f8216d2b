"""Arguments that come one by one, put together to a JSON object."""

from __future__ import annotations

import json
from typing import Any

from local_worker.toolcalls.events import Arguments, Begun


class ArgumentsWriter:
    """Writes an object member by member, as Python's json does it."""

    def __init__(self, name: str, *, streams: bool) -> None:
        self._streams = streams
        self._empty = True
        self._events: list[Begun | Arguments] = [Begun(name)]
        self._add("{")

    def member(self, key: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
        """Another one.

        Raises:
            ValueError: the value is infinite, or no number.
        """
        lead = "" if self._empty else ", "
        self._empty = False
        name, written = (
            json.dumps(item, ensure_ascii=False, allow_nan=False) for item in (key, value)
        )
        self._add(f"{lead}{name}: {written}")

    def close(self) -> None:
        """That were all."""
        self._add("}")

    def take(self, *, closed: bool) -> list[Begun | Arguments]:
        """What can be given out: nothing before the end, unless it streams."""
        if not (self._streams or closed):
            return []
        events, self._events = self._events, []
        return events

    def _add(self, text: str) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(last, Arguments):
            self._events[-1] = Arguments(last.text + text)
        else:
            self._events.append(Arguments(text))
