"""Where a JSON value ends, while it is still being written."""

from __future__ import annotations

import json
from typing import Any

_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
"""Templates write some as Python does, and so do the models that were trained with them."""

_OPENING, _CLOSING = "{[", "}]"


def json_value(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON value.

    Raises:
        ValueError: it is none; `NaN` and infinite numbers are none either.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(text, parse_constant=_refuse)
    if isinstance(value, float) and abs(value) == float("inf"):
        raise ValueError(text)
    return value


def literal(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON value, or a word of Python's for one; raises as `json_value` does."""
    return _WORDS[text] if text in _WORDS else json_value(text)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


class ObjectScanner:
    """Finds the end of a JSON object by its brackets and strings; the rest is not looked at.

    >>> scanner = ObjectScanner()
    >>> scanner.feed('{"a": "}'), scanner.feed('"} tail'), scanner.complete
    (8, 2, True)
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False
        self.complete = False

    def feed(self, text: str) -> int:
        """How many characters belong to the object: all of them until it is complete."""
        for index, character in enumerate(text):
            self._take(character)
            if self._depth == 0:
                self.complete = True
                return index + 1
        return len(text)

    def _take(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped = character == "\\"
            self._in_string = character != '"'
        elif character == '"':
            self._in_string = True
        elif character in _OPENING:
            self._depth += 1
        elif character in _CLOSING:
            self._depth -= 1
