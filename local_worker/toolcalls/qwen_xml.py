"""Qwen3.5's layout: one element for each parameter, its value as it is and on lines of its own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from local_worker.toolcalls.events import Malformed
from local_worker.toolcalls.pieces import ArgumentsWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_worker.toolcalls.events import Event, Tool

_END = "</tool_call>"
_HEADER = re.compile(r"\s*<tool_call>\s*<function=([^>\n]+)>\n?")
_PARAMETER = re.compile(
    # A value may hold the closing element itself: what follows tells which one is meant.
    r"\s*<parameter=([^>\n]+)>\n(.*?)\n</parameter>(?=\s*(?:<parameter=|</function>))",
    re.DOTALL,
)
_TRAILER = re.compile(r"\s*</function>\s*</tool_call>")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}


class QwenXmlCalls:
    """Parses calls. Implements `events.CallParser`.

    Args:
        tools: that may be called: values are texts or not by their schemas.
        streams: whether arguments are given out one by one, as they are complete.
    """

    def __init__(self, tools: Mapping[str, Tool], *, streams: bool) -> None:
        self._tools = tools
        self._streams = streams
        self._text, self._read = "", 0
        self._name = ""
        self._writer: ArgumentsWriter | None = None

    def feed(self, text: str) -> list[Event]:
        """More text; what is certain now."""
        self._text += text
        events: list[Event] = []
        while self._advance(events):
            pass
        return events

    def end(self) -> list[Event]:
        """There is no more text."""
        text, self._text = self._text, ""
        given_out = self._writer is not None and self._streams
        return [] if given_out or not text.strip() else [Malformed(text)]

    def _advance(self, events: list[Event]) -> bool:
        if self._writer is None:
            header = _HEADER.match(self._text)
            if header is None:
                return self._skip(events)
            self._name, self._read = header[1].strip(), header.end()
            self._writer = ArgumentsWriter(self._name, streams=self._streams)
            events += self._writer.take(closed=False)
        if (parameter := _PARAMETER.match(self._text, self._read)) is not None:
            self._read = parameter.end()
            key = parameter[1].strip()
            self._writer.member(key, self._value(key, parameter[2]))
            events += self._writer.take(closed=False)
            return True
        if (trailer := _TRAILER.match(self._text, self._read)) is not None:
            self._writer.close()
            events += self._writer.take(closed=True)
            self._next(trailer.end())
            return bool(self._text)
        return self._skip(events)

    def _skip(self, events: list[Event]) -> bool:
        """A call that ends without having been one."""
        at = self._text.find(_END, self._read)
        held = self._text.find("<parameter=", self._read)
        if at < 0 or 0 <= held < at:  # inside of a value it is text
            return False
        events.append(Malformed(self._text[: at + len(_END)]))
        self._next(at + len(_END))
        return bool(self._text)

    def _next(self, start: int) -> None:
        self._text, self._read, self._writer = self._text[start:], 0, None

    def _value(self, key: str, text: str) -> Any:  # noqa: ANN401 - any JSON value
        tool = self._tools.get(self._name)
        properties = tool.parameters.get("properties", {}) if tool else {}
        return value_of(text, types_of(properties.get(key)))


def value_of(text: str, types: frozenset[str]) -> Any:  # noqa: ANN401 - any JSON value
    """What a text stands for, given the types that its schema allows; none allow all."""
    if types == {"string"}:
        return text
    try:
        value = _WORDS[text] if text in _WORDS else json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if not types or _type_of(value) & types else text


def _type_of(value: object) -> frozenset[str]:
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int):
        return frozenset({"integer", "number"})
    if isinstance(value, float):
        return frozenset({"number", "integer"} if value.is_integer() else {"number"})
    names = {str: "string", type(None): "null", list: "array", dict: "object"}
    return frozenset({names[type(value)]})


def types_of(schema: object) -> frozenset[str]:
    """The types that a schema names; empty where it names none."""
    if not isinstance(schema, dict):
        return frozenset()
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(str(name) for name in named)
    if isinstance(values := schema.get("enum"), list):
        return frozenset().union(*(_type_of(value) for value in values))
    if "const" in schema:
        return _type_of(schema["const"])
    parts = schema.get("anyOf") or schema.get("oneOf") or []
    kinds = [types_of(part) for part in parts]
    return frozenset().union(*kinds) if kinds and all(kinds) else frozenset()
