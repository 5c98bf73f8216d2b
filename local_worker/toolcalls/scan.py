"""Where a JSON value ends, while it is still being written."""

from __future__ import annotations

_OPENING, _CLOSING = "{[", "}]"


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
