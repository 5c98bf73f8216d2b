"""Qwen3.5's layout: one element for each parameter, its value as it is and on lines of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from local_worker.toolcalls.events import Malformed
from local_worker.toolcalls.pieces import ArgumentsWriter
from local_worker.toolcalls.scan import json_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_worker.toolcalls.events import Event, Tool

_END = "</tool_call>"
_HEADER = re.compile(r"\s*<tool_call>\s*<function=([^>\n]+)>\n?")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n")
_CLOSE = "\n</parameter>"
_FOLLOWS = re.compile(r"\s*(?:<parameter=|</function>)")
_TRAILER = re.compile(r"\s*</function>\s*</tool_call>")
_MOST_REFERENCES = 16
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
        self._searched = 0  # for the end of the present value
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
        if self._writer is not None and self._streams:
            return [Malformed("")]  # what there was of it has been given out
        return [Malformed(text)] if text.strip() else []

    def _advance(self, events: list[Event]) -> bool:
        if self._writer is None:
            header = _HEADER.match(self._text)
            if header is None:
                return self._skip(events)
            self._name, self._read = header[1].strip(), header.end()
            self._writer = ArgumentsWriter(self._name, streams=self._streams)
            events += self._writer.take(closed=False)
        if (parameter := _PARAMETER.match(self._text, self._read)) is not None:
            value = self._value_text(parameter.end())
            if value is None:
                return False
            key = parameter[1].strip()
            self._writer.member(key, self._value(key, value))
            events += self._writer.take(closed=False)
            return True
        if (trailer := _TRAILER.match(self._text, self._read)) is not None:
            self._writer.close()
            events += self._writer.take(closed=True)
            self._next(trailer.end())
            return bool(self._text)
        return self._skip(events)

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

    def _skip(self, events: list[Event]) -> bool:
        """A call that ends without having been one."""
        at = self._text.find(_END, self._read)
        held = self._text.find("<parameter=", self._read)
        if at < 0 or 0 <= held < at:  # inside of a value it is text
            return False
        if self._writer is not None and self._streams:
            self._text = self._text[at:]
        events.append(Malformed(self._text[: at + len(_END)]))
        self._next(at + len(_END))
        return bool(self._text)

    def _next(self, start: int) -> None:
        self._text, self._read, self._writer = self._text[start:], 0, None

    def _value(self, key: str, text: str) -> Any:  # noqa: ANN401 - any JSON value
        tool = self._tools.get(self._name)
        root = tool.parameters if tool else {}
        properties = root.get("properties")
        part = properties.get(key) if isinstance(properties, dict) else None
        return value_of(text, types_of(part, root))


def value_of(text: str, types: frozenset[str]) -> Any:  # noqa: ANN401 - any JSON value
    """What a text stands for, given the types that its schema allows; none allow all."""
    if types == {"string"}:
        return text
    try:
        value = _WORDS[text] if text in _WORDS else json_value(text)
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


def types_of(
    schema: object, root: Mapping[str, Any] | None = None, depth: int = 0
) -> frozenset[str]:
    """The types that a schema names; empty where it names none.

    Args:
        schema: of a value.
        root: in which its references are.
        depth: of references so far.
    """
    if not isinstance(schema, dict) or depth > _MOST_REFERENCES:
        return frozenset()
    if isinstance(reference := schema.get("$ref"), str):
        return types_of(referred(reference, root or {}), root, depth + 1)
    if isinstance(named := schema.get("type"), str | list):
        return frozenset([named] if isinstance(named, str) else map(str, named))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return frozenset().union(*map(_type_of, values))
    parts = schema.get("anyOf") or schema.get("oneOf")
    kinds = [types_of(p, root, depth + 1) for p in parts] if isinstance(parts, list) else []
    return frozenset().union(*kinds) if all(kinds) else frozenset()


def referred(reference: str, root: Mapping[str, Any]) -> dict[str, Any]:
    """The schema at a local reference; empty where there is none."""
    target: Any = root
    for step in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
        target = target.get(step) if isinstance(target, dict) else None
    return target if isinstance(target, dict) else {}
