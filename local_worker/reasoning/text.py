"""Token pieces in, text out: incremental UTF-8, stop strings held back, thought and answer apart.

A piece is the bytes of one token; characters may span pieces and stop strings may span both. Text
is released as soon as nothing that may follow can take it back, and not before.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from local_worker.types import Channel, TextDelta

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopMatcher:
    """Finds the first of several stop strings in a stream of text.

    >>> stops = StopMatcher(["END"])
    >>> stops.feed("to the E"), stops.feed("astEN"), stops.feed("D."), stops.matched
    ('to the ', 'East', '', 'END')
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Returns what is safe to show; sets `matched` when a stop string is complete."""
        if not self._stop:
            return text
        if self.matched is not None:
            return ""
        text = self._held + text
        hits = [(at, s) for s in self._stop if (at := text.find(s)) >= 0]
        if hits:
            at, self.matched = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
            self._held = ""
            return text[:at]
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The stream ends: what was held is text after all."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        longest = max(len(s) for s in self._stop) - 1
        for length in range(min(longest, len(text)), 0, -1):
            tail = text[-length:]
            if any(s.startswith(tail) for s in self._stop):
                return length
        return 0


class TextStream:
    """Turns labelled pieces into deltas on two channels.

    The thought loses the white space around it, and an answer that follows a thought loses the
    white space before it: both belong to the delimiters and to nobody's text.

    Args:
        stop: texts that end the answer.
        thinking: it begins in the middle of a thought.
        answering: it begins with the answer to one.
    """

    def __init__(
        self, stop: Sequence[str] = (), *, thinking: bool = False, answering: bool = False
    ) -> None:
        self._decoders = {channel: _utf8() for channel in Channel}
        self._stops = StopMatcher(stop)
        self._held_space = ""
        self._thought_begun = thinking
        self._answer_begun = False
        self._thought_seen = answering

    @property
    def stop(self) -> str | None:
        """The stop string that matched, or None."""
        return self._stops.matched

    def reasoning(self, piece: bytes) -> str:
        """Text of a thought that can be shown after this piece."""
        return self._trim_thought(self._decoders[Channel.REASONING].decode(piece))

    def content(self, piece: bytes, *, search_stop: bool = True) -> str:
        """Text of the answer that can be shown after this piece."""
        text = self._trim_answer(self._decoders[Channel.CONTENT].decode(piece))
        if not search_stop:
            return self._stops.flush() + text
        return self._stops.feed(text)

    def leave_content(self) -> str:
        """Something else follows: text that was held for a stop string."""
        return self._stops.flush()

    def call(self, piece: bytes) -> str:
        """Text of a tool call that can be shown after this piece."""
        return self._decoders[Channel.TOOL_CALL].decode(piece)

    def close_thought(self) -> None:
        """A thought has ended: what follows is apart from it."""
        self._thought_seen = True
        self._decoders[Channel.REASONING].reset()
        self._held_space = "\n" if self._thought_begun else ""

    def flush(self) -> tuple[TextDelta, ...]:
        """The sequence ends: an incomplete character becomes U+FFFD, held text is released."""
        deltas = []
        thought = self._trim_thought(self._decoders[Channel.REASONING].decode(b"", final=True))
        if thought:
            deltas.append(TextDelta(Channel.REASONING, thought))
        answer = self._trim_answer(self._decoders[Channel.CONTENT].decode(b"", final=True))
        answer = self._stops.feed(answer) + self._stops.flush()
        if answer:
            deltas.append(TextDelta(Channel.CONTENT, answer))
        return tuple(deltas)

    def _trim_thought(self, text: str) -> str:
        text = self._held_space + text
        if not self._thought_begun:
            text = text.lstrip()
        shown = text.rstrip()
        self._held_space = text[len(shown) :]
        self._thought_begun = self._thought_begun or bool(shown)
        return shown

    def _trim_answer(self, text: str) -> str:
        if self._thought_seen and not self._answer_begun:
            text = text.lstrip()
        self._answer_begun = self._answer_begun or bool(text)
        return text


def _utf8() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")(errors="replace")
