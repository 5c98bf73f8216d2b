"""Qwen3.5's layout: one element for each parameter, its value as it is and on lines of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from local_worker.toolcalls.reading import MemberCalls
from local_worker.toolcalls.scan import literal
from local_worker.toolcalls.schemas import properties_of, type_of, types_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_worker.toolcalls.events import Event, Tool
    from local_worker.toolcalls.pieces import ArgumentsWriter

_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n")
_CLOSE = "\n</parameter>"
_FOLLOWS = re.compile(r"\s*(?:<parameter=|</function>)")
_TRAILER = re.compile(r"\s*</function>\s*</tool_call>")


class QwenXmlCalls(MemberCalls):
    """Parses calls; see `reading`.

    Args:
        tools: that may be called: values are texts or not by their schemas.
        streams: whether arguments are given out one by one, as they are complete.
    """

    HEADER = re.compile(r"\s*<tool_call>\s*<function=([^>\n]+)>\n?")
    END = "</tool_call>"

    def __init__(self, tools: Mapping[str, Tool], *, streams: bool) -> None:
        super().__init__(streams=streams)
        self._tools = tools
        self._searched = 0  # for the end of the present value

    def _read_arguments(self, writer: ArgumentsWriter, events: list[Event]) -> bool:
        if (parameter := _PARAMETER.match(self._text, self._read)) is not None:
            value = self._value_text(parameter.end())
            if value is None:
                return False
            key = parameter[1].strip()
            writer.member(key, self._value(key, value))
            events += writer.take(closed=False)
            return True
        if (trailer := _TRAILER.match(self._text, self._read)) is not None:
            return self._close(writer, trailer.end(), events)
        return self._give_up(events)

    def _value_text(self, start: int) -> str | None:
        """The value from there on, if it is whole.

        It may hold the closing element itself. Where it is held to its grammar, that ends with the
        first one that has a line of its own; elsewhere, what follows tells which one is meant.
        """
        close = f"{_CLOSE}\n" if self._streams else _CLOSE
        # The line end before the value may be the one before the closing element.
        at = self._text.find(close, max(start, self._searched))
        while at >= 0 and not self._streams and not _FOLLOWS.match(self._text, at + len(close)):
            at = self._text.find(close, at + 1)
        if at < 0:
            if self._streams:
                self._searched = max(start, len(self._text) - len(close))
            return None
        self._read, self._searched = at + len(close), 0
        return self._text[start:at]

    def _give_up(self, events: list[Event]) -> bool:
        end = self._text.find(self.END, self._read)
        in_value = 0 <= self._text.find("<parameter=", self._read) < end
        return not in_value and super()._give_up(events)

    def _value(self, key: str, text: str) -> Any:  # noqa: ANN401 - any JSON value
        tool = self._tools.get(self._name)
        root = tool.parameters if tool else {}
        return value_of(text, types_of(properties_of(root).get(key), root))


def value_of(text: str, types: frozenset[str]) -> Any:  # noqa: ANN401 - any JSON value
    """What a text stands for, given the types that its schema allows; none allow all."""
    if types == {"string"}:
        return text
    try:
        value = literal(text)
    except (ValueError, RecursionError):
        return text
    return value if not types or type_of(value) & types else text
