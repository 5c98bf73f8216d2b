"""Whether a thought could end here: where it turns to something else, and how sure the answer is.

Pure. The method is that of DEER (Yang et al. 2025, "Dynamic Early Exit in Reasoning Models",
arXiv:2504.15895): at the words with which a model turns from one thought to the next, an answer is
tried, and taken where the geometric mean of the most probable tokens' probabilities is high.
"""

from __future__ import annotations

import codecs
import math
from typing import TYPE_CHECKING

from local_worker.reasoning.budget import missing_utf8_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_worker.types import TokenLogprob, Trace


class Thought:
    """A thought as it comes, and where a line of it begins with a marker.

    Args:
        markers: texts.
        opened: whether it is open before its first token: then its beginning is a line's, too.

    Attributes:
        token_ids: of the whole turn.
        space: white space that it ends in, and which no text shows before something follows it.
    """

    def __init__(self, markers: Sequence[str], *, opened: bool) -> None:
        self._markers = tuple(marker.encode() for marker in markers)
        self.token_ids: list[int] = []
        self._line = b""
        self.space = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._line_at: int | None = 0 if opened else None

    def add(self, trace: Trace) -> int | None:
        """Takes one step in.

        Returns:
            How many tokens come before the line that now begins with a marker; None where none
            does, or where no token ended before it.
        """
        self.token_ids += trace.token_ids
        self._read(trace.piece)
        text = self._decoder.decode(trace.piece)
        kept = text.rstrip()
        space = text[len(kept) :]
        self.space = space if kept else self.space + space
        if self._line_at is None or not trace.thinking or missing_utf8_bytes(self._line):
            return None
        line = self._line.lstrip()
        if not line or not any(line.startswith(marker) for marker in self._markers):
            return None
        found, self._line_at = self._line_at, None  # once a line
        return found

    def _read(self, piece: bytes) -> None:
        _, newline, after = piece.rpartition(b"\n")
        if not newline:
            self._line += piece
            return
        self._line = after
        # A token that holds a line's end and more cannot be cut there.
        self._line_at = None if after else len(self.token_ids)


class Confidence:
    """How sure a model is of the tokens that it has written."""

    def __init__(self) -> None:
        self._sum = 0.0
        self.count = 0

    def add(self, logprobs: Sequence[TokenLogprob]) -> None:
        """More tokens."""
        for logprob in logprobs:
            self._sum += logprob.top[0][1] if logprob.top else logprob.logprob
            self.count += 1

    @property
    def value(self) -> float:
        """The geometric mean of the most probable tokens' probabilities; 0 of none."""
        return math.exp(self._sum / self.count) if self.count else 0.0
