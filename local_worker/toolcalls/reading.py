"""What the parsers have in common: text in pieces, and arguments that come one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from local_worker.toolcalls.events import Malformed
from local_worker.toolcalls.pieces import ArgumentsWriter

if TYPE_CHECKING:
    import re

    from local_worker.toolcalls.events import Event


class CallText(ABC):
    """The text of calls, read from its front. Implements `events.CallParser`, but for `end`.

    Args:
        streams: whether arguments are given out while they are written. They cannot be taken back:
            only for calls that are held to their grammar.
    """

    def __init__(self, *, streams: bool) -> None:
        self._streams = streams
        self._text = ""  # of the present call, from its start
        self._read = 0  # of it

    def feed(self, text: str) -> list[Event]:
        """More text; what is certain now."""
        self._text += text
        events: list[Event] = []
        while self._advance(events):
            pass
        return events

    @abstractmethod
    def _advance(self, events: list[Event]) -> bool:
        """Reads on, and adds what it has found. Returns whether there may be more."""


class MemberCalls(CallText):
    """Calls whose arguments are written member by member.

    Attributes:
        HEADER: up to the arguments, the function's name in its first group.
        END: text that ends a call.
    """

    HEADER: ClassVar[re.Pattern[str]]
    END: ClassVar[str]

    def __init__(self, *, streams: bool) -> None:
        super().__init__(streams=streams)
        self._name = ""
        self._writer: ArgumentsWriter | None = None

    def end(self) -> list[Event]:
        """There is no more text."""
        text, self._text = self._text, ""
        if self._given_out:
            return [Malformed("")]
        return [Malformed(text)] if text.strip() else []

    @property
    def _given_out(self) -> bool:
        """Whether the client has been told of the present call."""
        return self._writer is not None and self._streams

    def _advance(self, events: list[Event]) -> bool:
        if self._writer is None:
            header = self.HEADER.match(self._text)
            if header is None:
                return self._give_up(events)
            self._name, self._read = header[1].strip(), header.end()
            self._writer = ArgumentsWriter(self._name, streams=self._streams)
            self._begin_arguments()
            events += self._writer.take(closed=False)
        return self._read_arguments(self._writer, events)

    def _begin_arguments(self) -> None:
        """A call's header has been read."""

    @abstractmethod
    def _read_arguments(self, writer: ArgumentsWriter, events: list[Event]) -> bool:
        """Reads on in the arguments, like `_advance`."""

    def _close(self, writer: ArgumentsWriter, end: int, events: list[Event]) -> bool:
        """The call ends there."""
        writer.close()
        events += writer.take(closed=True)
        return self._next(end)

    def _give_up(self, events: list[Event]) -> bool:
        """It is no call: all of it, but for what has been given out, is text once it ends."""
        at = self._text.find(self.END, self._read)
        if at < 0:
            return False
        end = at + len(self.END)
        events.append(Malformed(self._text[self._read if self._given_out else 0 : end]))
        return self._next(end)

    def _next(self, start: int) -> bool:
        self._text, self._read, self._writer = self._text[start:], 0, None
        return bool(self._text)
