"""Gemma 4's notation: `call:name{key:value}`, with a token of its own for quotes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from local_worker.toolcalls.reading import MemberCalls
from local_worker.toolcalls.scan import literal

if TYPE_CHECKING:
    from local_worker.toolcalls.events import Event
    from local_worker.toolcalls.pieces import ArgumentsWriter

QUOTE = '<|"|>'
_LITERAL = re.compile(r"[^,\]}]+")
_MOST_NESTED = 100


class GemmaCalls(MemberCalls):
    """Parses calls; see `reading`."""

    HEADER = re.compile(r"\s*<\|tool_call>\s*call:([^{]+)\{")
    END = "<tool_call|>"

    def _begin_arguments(self) -> None:
        self._members = _Members()
        self._broken = False

    def _read_arguments(self, writer: ArgumentsWriter, events: list[Event]) -> bool:
        if self._broken:
            return self._give_up(events)
        found, closed = self._members.feed(self._text, self._read)
        try:
            for member in found:
                key, _, value = member.partition(":")
                writer.member(_unquoted(key), value_of(value))
        except ValueError:
            self._broken = True
            return True
        events += writer.take(closed=False)
        end = -1 if closed is None else self._text.find(self.END, closed)
        return end >= 0 and self._close(writer, end + len(self.END), events)


def _unquoted(key: str) -> str:
    return key.strip().removeprefix(QUOTE).removesuffix(QUOTE)


class _Members:
    """Cuts the inside of an object at its commas, while it is being written."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._start: int | None = None
        self._at = 0
        self._closed: int | None = None

    def feed(self, text: str, start: int) -> tuple[list[str], int | None]:
        """Members that are complete now, and where the object has ended, if it has."""
        if self._start is None:
            self._start = self._at = start
        found: list[str] = []
        while self._closed is None and self._at < len(text):
            # A quote may only be half there: it is looked at when it is whole.
            rest = text[self._at : self._at + len(QUOTE)]
            if rest != QUOTE and QUOTE.startswith(rest):
                break
            self._step(text, rest, found)
        return found, self._closed

    def _step(self, text: str, rest: str, found: list[str]) -> None:
        assert self._start is not None, "fed"
        character = rest[0]
        if rest == QUOTE:
            self._quoted = not self._quoted
            self._at += len(QUOTE)
            return
        if not self._quoted:
            ends = character in ",}" and self._depth == 0
            if ends and text[self._start : self._at].strip():
                found.append(text[self._start : self._at])
            if ends:
                self._start = self._at + 1
            if ends and character == "}":
                self._closed = self._at + 1
            self._depth += (character in "{[") - (character in "}]" and not ends)
        self._at += 1


def value_of(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """A value in this notation.

    Raises:
        ValueError: it is none.
    """
    value, end = _value(text, 0, 0)
    if text[end:].strip():
        raise ValueError(text)
    return value


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > _MOST_NESTED:
        raise ValueError("nested too deeply")
    at += len(text[at:]) - len(text[at:].lstrip())
    if text.startswith(QUOTE, at):
        end = text.find(QUOTE, at + len(QUOTE))
        if end < 0:
            raise ValueError(text)
        return text[at + len(QUOTE) : end], end + len(QUOTE)
    if text.startswith("[", at):
        return _sequence(text, at + 1, depth)
    if text.startswith("{", at):
        return _mapping(text, at + 1, depth)
    word = _LITERAL.match(text, at)
    if word is None:
        raise ValueError(text)
    return literal(word[0].strip()), word.end()


def _sequence(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while not text.startswith("]", at):
        value, at = _value(text, at, depth + 1)
        items.append(value)
        at = _after_comma(text, at, "]")
    return items, at + 1


def _mapping(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}
    while not text.startswith("}", at):
        colon = text.find(":", at)
        if colon < 0:
            raise ValueError(text)
        key = _unquoted(text[at:colon])
        members[key], at = _value(text, colon + 1, depth + 1)
        at = _after_comma(text, at, "}")
    return members, at + 1


def _after_comma(text: str, at: int, closer: str) -> int:
    if text.startswith(",", at):
        return at + 1
    if not text.startswith(closer, at):
        raise ValueError(text)
    return at
