"""With how many prompt tokens to fill up a step that streams are in. Pure.

Kernels take rows by sixteen. Seven rows of streams take 50 ms (0.6B shape, 2 cores), and nine
tokens of a prompt beside them 5 ms more: a third of what they take in a step of their own. Eight
would make it 69 ms (benchmarks/results/decode-0.6b.md). So a chunk fills up such a multiple, and of
the multiples for which the streams have time, one is taken in which a prompt's token is cheap: that
is learnt from the steps.

Where sequences have cells of their own, llama.cpp computes a chunk's first token together with the
streams and the others in a pass of their own: that is the one to fill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_worker.engines.llama_cpp.shapes import MULTIPLES
from local_worker.engines.process.average import OUTLIER, mixed

if TYPE_CHECKING:
    from collections.abc import Mapping

MULTIPLE = max(MULTIPLES)
TIMES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Multiples of it that are told apart."""

LEAST_TOKENS = 8
"""However slow the machine: a prompt must get on. Twice as many, behind 1,500 tokens, took
four decode steps (benchmarks/results/decode-0.6b.md)."""

PATIENT = 32
"""Steps that what is left of the prompts may take in exchange for cheaper ones."""

AS_CHEAP = 1.08
"""What a token may cost in another step, of what it costs in the cheapest one."""

FORGET = 128
"""Steps after which all sizes are tried anew: contexts have grown, neighbours have come and gone,
and one that was held up once would never be seen again."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What a chunk is to be computed beside, and for whom.

    Attributes:
        decoding: sequences that are past their prompt.
        rows: of those.
        prompts: that are to be computed.
        pending: tokens of those.
    """

    decoding: int
    rows: int
    prompts: int
    pending: int


class Filling:
    """Learns what filled steps take."""

    def __init__(self) -> None:
        self._separate = False
        self._seconds: dict[int, float] = {}  # of a pass, by its rows
        self._seen = 0

    def change(self, *, separate: bool) -> None:
        """The layout of the cells is another one, `separate` or not: so are the passes."""
        self._separate = separate
        self._seconds.clear()

    def counts(self, rows: int, most: int) -> list[int]:
        """Tokens that fill up a step in which so many rows are taken, fewest first."""
        first = 1 if self._separate else -(rows % MULTIPLE)
        counts = (first + times * MULTIPLE for times in TIMES)
        return [count for count in counts if LEAST_TOKENS <= count <= most]

    def observe(self, rows: int, tokens: int, seconds: float, decode: float) -> None:
        """A step has been computed.

        Args:
            rows: of streams.
            tokens: of prompts beside them.
            seconds: that it took.
            decode: that the streams alone take.
        """
        self._seen += 1
        if self._seen % FORGET == 0:
            self._seconds.clear()
        size = self._pass(rows, tokens)
        if size % MULTIPLE == 0:
            # What the streams take is not known exactly: never nothing, from which none recovers.
            own = max(seconds - decode, seconds / 4) if self._separate else seconds
            self._seconds[size] = mixed(self._seconds.get(size), own, outlier=OUTLIER)

    def seconds(self, rows: int, tokens: int, decode: float) -> float | None:
        """What such a step takes; None before one was seen. See `observe`."""
        known = self._seconds.get(self._pass(rows, tokens))
        return None if known is None else known + decode * self._separate

    def _pass(self, rows: int, tokens: int) -> int:
        return tokens - 1 if self._separate else rows + tokens


def choose(costs: Mapping[int, float | None], pending: int) -> int:
    """How many tokens a step is to have. Pure.

    Args:
        costs: of a token, by how many a step may have, fewest first; None where not known.
        pending: tokens that there are to compute.
    """
    counts = [count for count in costs if count <= pending] or list(costs)[:1]
    enough = [count for count in counts if PATIENT * count >= pending] or counts[-1:]
    known = {count: found for count in enough if (found := costs[count]) is not None}
    unknown = [count for count in enough if count not in known]
    if unknown:
        return unknown[0]
    best = min(known.values())
    return max(count for count in enough if known[count] <= AS_CHEAP * best)
