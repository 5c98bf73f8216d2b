"""With how many threads and rows a decode step is computed. Pure: learns from what steps took.

More threads are not always faster: one may read all that the memory gives, and where a neighbour
keeps a core busy, threads that wait for each other at every operation wait for it, too. Nor are
fewer rows: the kernels take rows by 16, 8 or 4 and the rest one by one, so that 15 rows can cost
more than 16. Which shape is best depends on model, machine and hour, so each size of step is tried
in other shapes now and then, and stays in the one that was fastest.

STEADY -> TRIAL -> STEADY        (a trial is lost; a loser is tried again later and later)
          TRIAL -> PROBATION -> STEADY     (a trial is won, perhaps by luck: luck does not last)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from local_worker.engines.process.average import mixed

if TYPE_CHECKING:
    from collections.abc import Callable

WORTH_LEARNING = 0.001
"""Seconds of a step below which there is nothing to win."""

OUTLIER = 3.0
"""A step that takes so many times longer than the others was held up from outside."""

HOPELESS = 1.5
"""A trial this many times slower is not continued."""

CHANGED = 1.3
"""Steps this many times slower than when they were last compared: something else is different."""

GAIN = 0.95
"""What a trial has to take, of what steps take now, to win."""


@dataclass(frozen=True, slots=True)
class Trials:
    """When something else is tried, in steps of one size.

    Attributes:
        first: before anything is tried.
        steps: of a trial.
        again: before a shape that has lost is tried again.
        longest: likewise, when it has lost again and again.
    """

    first: int
    steps: int
    again: int
    longest: int


DECODE = Trials(first=8, steps=4, again=64, longest=1024)
PROMPTS = Trials(first=2, steps=1, again=8, longest=128)
"""Steps with prompts in them are few, and long."""

PROBATION = 2
"""Times the steps of a trial, in which a winner has to stay faster than what it replaced."""

MULTIPLES = (4, 8, 16)
MOST_PADDING = max(MULTIPLES) // 2
"""Rows thrown away in a step at the most."""

MOST_ADDED = 1.6
"""Rows computed, for each that is used: no kernel takes eight rows as fast as three."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a step is computed.

    Attributes:
        threads: that compute it.
        rows: in its batch, those thrown away included.
    """

    threads: int
    rows: int


@dataclass(slots=True)
class _Lost:
    """When a shape is to be tried again.

    Attributes:
        times: it has lost in a row.
        due: count of steady steps.
    """

    times: int = 0
    due: int = 0


@dataclass(slots=True)
class _Size:
    """What is known of steps with a number of rows."""

    best: Shape
    seconds: float | None = None
    compared: float | None = None  # `seconds` at the last trial
    steady: int = 0
    trial: Shape | None = None
    replaced: tuple[Shape, float] | None = None  # on probation: what was best before, and `seconds`
    probation_ends: int = 0  # count of steady steps
    tried: list[float] = field(default_factory=list)
    lost: dict[Shape, _Lost] = field(default_factory=dict)


class Shapes:
    """Chooses shapes.

    Args:
        threads: at the most; every step has so many before anything is known.
        max_rows: of a batch.
        pads: whether rows may be added.
        fewer: whether fewer threads may be tried.
        trials: when.
    """

    def __init__(
        self,
        threads: int,
        max_rows: int,
        *,
        pads: bool = True,
        fewer: bool = True,
        trials: Trials = DECODE,
    ) -> None:
        self._ladder = sorted({1, threads // 2, threads - 1, threads} - {0}) if fewer else [threads]
        self._threads = threads
        self._max_rows = max_rows
        self._pads = pads
        self._trials = trials
        self._sizes: dict[int, _Size] = {}
        self._seen: dict[Shape, float] = {}  # seconds, of whatever size

    def choose(self, rows: int, *, tries: bool = True) -> Shape:
        """How to compute a step with so many rows in use.

        Args:
            rows: in use.
            tries: whether it may be one that is not known to be good.
        """
        size = self._size(rows)
        if size.trial is None and tries:
            size.trial = self._due(rows, size)
        return (tries and size.trial) or size.best

    def best(self, rows: int) -> Shape:
        """The shape that steps of that size have when nothing is tried."""
        return self._size(rows).best

    def observe(self, rows: int, shape: Shape, seconds: float) -> None:
        """A step with so many rows in use has been computed in a shape."""
        size = self._sizes[rows]
        self._seen[shape] = mixed(self._seen.get(shape), seconds, outlier=OUTLIER)
        if shape == size.trial:
            size.tried.append(seconds)
            assert size.seconds is not None, "trials come after steady steps"
            if len(size.tried) == self._trials.steps or _is_hopeless(size):
                self._judge(size)
        elif shape == size.best:
            size.seconds = mixed(size.seconds, seconds, outlier=OUTLIER)
            size.steady += 1
            if size.replaced is not None and size.steady == size.probation_ends:
                self._confirm(size)
            _notice_change(size)

    def _size(self, rows: int) -> _Size:
        size = self._sizes.get(rows)
        if size is None:
            size = self._sizes[rows] = _Size(Shape(self._likely_threads(rows), rows))
        return size

    def _likely_threads(self, rows: int) -> int:
        """Of the nearest size that is known: what a neighbour does to one size it does to all."""
        nearest = min(self._sizes, key=lambda known: abs(known - rows), default=None)
        return self._threads if nearest is None else self._sizes[nearest].best.threads

    def _due(self, rows: int, size: _Size) -> Shape | None:
        if size.seconds is None or size.seconds < WORTH_LEARNING:
            return None
        others, first = self._others(rows, size.best), max(self._trials.first, size.steady)
        waits = {other: size.lost.setdefault(other, _Lost(due=first)) for other in others}
        for other in sorted(others, key=lambda other: waits[other].due):
            if waits[other].due > size.steady:
                break
            if not self._is_known_to_lose(other, size):
                return other
            self._lose(size, other, 1.0)
        return None

    def _is_known_to_lose(self, other: Shape, size: _Size) -> bool:
        """Steps of another size had this shape, and were no faster; believed for once."""
        seen, wait = self._seen.get(other), size.lost[other]
        assert size.seconds is not None
        return wait.times == 0 and seen is not None and seen > size.seconds

    def _judge(self, size: _Size) -> None:
        """TRIAL -> STEADY."""
        trial, taken = size.trial, _mean(size.tried)
        assert trial is not None
        assert size.seconds is not None
        size.trial, size.tried = None, []
        ratio = taken / size.seconds
        if ratio < GAIN:
            size.lost = {size.best: _Lost(1, size.steady + self._trials.again)}
            size.replaced = size.best, size.seconds
            size.probation_ends = size.steady + PROBATION * self._trials.steps
            size.best, size.seconds = trial, taken
        else:
            self._lose(size, trial, ratio)
        size.compared = size.seconds

    def _confirm(self, size: _Size) -> None:
        """PROBATION -> STEADY."""
        assert size.replaced is not None
        assert size.seconds is not None
        (before, seconds), size.replaced = size.replaced, None
        if size.seconds > seconds:
            size.lost[size.best] = _Lost(0)
            self._lose(size, size.best, size.seconds / seconds)
            size.best = before
            size.seconds = size.compared = seconds

    def _lose(self, size: _Size, shape: Shape, ratio: float) -> None:
        """Puts off the next trial of a shape that was so many times slower."""
        lost = size.lost[shape]
        lost.times += 1
        wait = self._trials.again * 2 ** (lost.times - 1) * max(1.0, ratio) ** 2
        lost.due = size.steady + int(min(wait, self._trials.longest))

    def _others(self, rows: int, best: Shape) -> list[Shape]:
        """Shapes a step away from the best one."""
        at = self._ladder.index(best.threads)
        threads = self._ladder[max(0, at - 1) : at] + self._ladder[at + 1 : at + 2]
        counts = {rows}
        if self._pads:
            counts |= {-(-rows // multiple) * multiple for multiple in MULTIPLES}
        most = min(self._max_rows, rows + MOST_PADDING, int(MOST_ADDED * rows))
        counts = {n for n in counts if n <= most}
        return [Shape(t, best.rows) for t in threads] + [
            Shape(best.threads, n) for n in sorted(counts - {best.rows})
        ]


@dataclass(frozen=True, slots=True)
class Choice:
    """How to compute one step; `observe` wants to be told how long it took."""

    threads: int
    padding: int
    observe: Callable[[float], None]


class StepShapes:
    """Shapes of steps that only decode, and of those with prompts in them.

    A trial that is lost costs a step with prompts in it as much again, and everybody who streams
    waits for it. So where some do, nothing is tried unless steps that only decode have found that
    another number of threads is better: they meet the same neighbours, and are short.

    Args: see `Shapes`.
    """

    def __init__(self, threads: int, max_rows: int, *, pads: bool, fewer: bool) -> None:
        self.threads = threads
        self._decode = Shapes(threads, max_rows, pads=pads, fewer=fewer)
        self._prompts = Shapes(threads, max_rows, pads=False, fewer=fewer, trials=PROMPTS)

    def choose(self, rows: int, decoding: int, *, only_decoding: bool) -> Choice:
        """How to compute a step.

        Args:
            rows: of it.
            decoding: sequences in it that are past their prompt.
            only_decoding: whether there are no others.
        """
        if only_decoding:
            shapes, size, scale, tries = self._decode, rows, 1.0, True
        else:
            # No two chunks are of one length, but what they take is in proportion to it.
            size = 1 << rows.bit_length()
            shapes, scale = self._prompts, size / rows
            known = shapes.best(size).threads
            tries = not decoding or self._decode.best(decoding).threads != known
        shape = shapes.choose(size, tries=tries)
        return Choice(
            shape.threads,
            shape.rows - size,
            lambda seconds: shapes.observe(size, shape, scale * seconds),
        )


def _is_hopeless(size: _Size) -> bool:
    return size.seconds is not None and _mean(size.tried) > HOPELESS * size.seconds


def _notice_change(size: _Size) -> None:
    if size.compared is None or size.seconds is None:
        return
    if size.seconds > CHANGED * size.compared:
        size.compared = size.seconds
        size.lost = {shape: _Lost(0, size.steady) for shape in size.lost}


def _mean(tried: list[float]) -> float:
    bound = OUTLIER * min(tried)
    return sum(min(seconds, bound) for seconds in tried) / len(tried)
