"""Layouts with JSON arguments: a header that names the function, an object, and a trailer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from local_worker.toolcalls.events import Arguments, Begun, Malformed
from local_worker.toolcalls.reading import CallText
from local_worker.toolcalls.scan import ObjectScanner, json_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_worker.toolcalls.events import Event


@dataclass(frozen=True, slots=True)
class JsonLayout:
    """How a family writes a call.

    Attributes:
        header: up to the arguments' opening brace, the function's name in group `name`.
        trailer: what follows the arguments.
        end: text that ends a call; empty where only another call or the end of the turn does.
        start: text that another call begins with.
        other: reads a whole call that is laid out in another way: pairs of name and arguments.
    """

    header: re.Pattern[str]
    trailer: re.Pattern[str]
    end: str
    start: str
    other: Callable[[str], list[tuple[str, dict[str, Any]]]]


class State(Enum):
    """HEADER -> ARGUMENTS -> TRAILER -> HEADER."""

    HEADER = auto()
    ARGUMENTS = auto()
    TRAILER = auto()


class JsonCalls(CallText):
    """Parses calls of one layout; see `reading`."""

    def __init__(self, layout: JsonLayout, *, streams: bool) -> None:
        super().__init__(streams=streams)
        self._layout = layout
        self._state = State.HEADER
        self._scanner = ObjectScanner()
        self._name = ""
        self._arguments_at = 0

    def end(self) -> list[Event]:
        """There is no more text."""
        events: list[Event] = []
        if self._state is State.TRAILER:
            self._next("")
        elif self._streams and self._state is State.ARGUMENTS:
            events.append(Malformed(""))  # what there was of it has been given out
        elif self._text.strip():
            self._whole(self._text, events)
            self._next("")
        return events

    def _advance(self, events: list[Event]) -> bool:
        if self._state is State.HEADER:
            return self._read_header(events)
        if self._state is State.ARGUMENTS:
            return self._read_arguments(events)
        return self._read_trailer()

    def _read_header(self, events: list[Event]) -> bool:
        self._text = self._text.lstrip()
        match = self._layout.header.match(self._text)
        if match is None:
            return self._read_other(events)
        self._name = match["name"].strip()
        self._arguments_at = self._read = match.end()
        self._scanner = ObjectScanner()
        self._state = State.ARGUMENTS
        if self._streams:
            events.append(Begun(self._name))
        return True

    def _read_other(self, events: list[Event]) -> bool:
        """A call whose header cannot be read is looked at as a whole, once it is."""
        layout = self._layout
        if layout.end:
            cut = self._text.find(layout.end) + len(layout.end)
            found = cut >= len(layout.end)
        else:
            cut = self._text.find(layout.start, 1)
            found = cut > 0
        if found:
            whole, rest = self._text[:cut], self._text[cut:]
            self._whole(whole, events)
            self._next(rest)
        return found

    def _read_arguments(self, events: list[Event]) -> bool:
        rest = self._text[self._read :]
        count = self._scanner.feed(rest)
        self._read += count
        if self._streams and count:
            events.append(Arguments(rest[:count]))
        if not self._scanner.complete:
            return False
        if not self._streams:
            arguments = self._text[self._arguments_at : self._read]
            if not is_object(arguments):
                self._state = State.HEADER
                return self._read_other(events)
            events += [Begun(self._name), Arguments(arguments)]
        self._state = State.TRAILER
        return True

    def _read_trailer(self) -> bool:
        match = self._layout.trailer.match(self._text, self._read)
        if match is None:
            return False
        self._next(self._text[match.end() :])
        return bool(self._text)

    def _next(self, text: str) -> None:
        self._text, self._read, self._state = text, 0, State.HEADER

    def _whole(self, text: str, events: list[Event]) -> None:
        calls = self._layout.other(text)
        for name, arguments in calls:
            events += [Begun(name), Arguments(json.dumps(arguments, ensure_ascii=False))]
        if not calls:
            events.append(Malformed(text))


def is_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(json_value(text), dict)
    except (ValueError, RecursionError):
        return False


def _pairs(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Calls in a JSON object or list of them, whatever the order of their keys."""
    try:
        found = json_value(text)
    except (ValueError, RecursionError):
        return []
    calls = []
    for item in found if isinstance(found, list) else [found]:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            return []
        arguments = item.get("arguments", item.get("parameters", {}))
        if isinstance(arguments, str) and is_object(arguments):
            arguments = json.loads(arguments)
        if not isinstance(arguments, dict):
            return []
        calls.append((item["name"], arguments))
    return calls


def _hermes(text: str) -> list[tuple[str, dict[str, Any]]]:
    return _pairs(text.strip().removeprefix("<tool_call>").removesuffix("</tool_call>"))


def _mistral(text: str) -> list[tuple[str, dict[str, Any]]]:
    return _pairs(text.strip().removeprefix("[TOOL_CALLS]"))


HERMES = JsonLayout(
    header=re.compile(
        r'\s*<tool_call>\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"\s*,\s*"arguments"\s*:\s*(?=\{)'
    ),
    trailer=re.compile(r"\s*\}\s*</tool_call>"),
    end="</tool_call>",
    start="<tool_call>",
    other=_hermes,
)
"""Qwen3 and the embedded model."""

MISTRAL = JsonLayout(
    header=re.compile(
        r"\s*\[TOOL_CALLS\](?P<name>[^\[{]+)(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?\s*(?=\{)"
    ),
    trailer=re.compile(r"\s*(?=\[TOOL_CALLS\])"),
    end="",
    start="[TOOL_CALLS]",
    other=_mistral,
)
"""Since its version 11; the list of objects of earlier ones is read, too."""

HARMONY = JsonLayout(
    header=re.compile(
        r"\s*(?:<\|start\|>assistant)?<\|channel\|>commentary to=functions\.(?P<name>[^\s<]+)\s*"
        r"(?:(?:<\|constrain\|>)?\w+)?\s*<\|message\|>\s*(?=\{)"
    ),
    trailer=re.compile(r"\s*<\|call\|>"),
    end="<|call|>",
    start="<|channel|>",
    other=lambda _: [],
)
"""gpt-oss."""
