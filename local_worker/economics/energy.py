"""Who has used how much energy. Pure: it is told readings and work, and adds up.

A power source is a set of counters that only grow. What they have grown by between two readings was
used by whatever was computed meanwhile, and is shared out by seconds of computing. While nothing is
in flight, it is the machine's idling: that is measured, gives the baseline, and is nobody's.

The sum holds: attributed + others' + idle = measured, whatever happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

IDLE_MEMORY = 60.0
"""Seconds of idling over which the baseline is averaged."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a power source's counters say.

    Attributes:
        at: seconds, of a clock that only goes forward.
        joules: of each device, since whenever; None where they cannot be read now.
    """

    at: float
    joules: tuple[float, ...] | None


@dataclass(slots=True)
class Share:
    """What a request has used.

    Attributes:
        seconds: of the machine's time, that others computed in beside it taken off.
        joules: that were measured.
        baseline: of those, what the machine would have used anyway; 0 while that is not known.
        unknown: seconds of its computing for which nothing was measured.
    """

    seconds: float = 0.0
    joules: float = 0.0
    baseline: float = 0.0
    unknown: float = 0.0

    @property
    def baseline_watts(self) -> float:
        """What the machine takes while it does nothing; 0 while that is not known."""
        known = self.seconds - self.unknown
        return self.baseline / known if known > 0 else 0.0

    def __add__(self, other: Share) -> Share:
        return Share(
            self.seconds + other.seconds,
            self.joules + other.joules,
            self.baseline + other.baseline,
            self.unknown + other.unknown,
        )


@dataclass(slots=True)
class Totals:
    """Of all time that was watched.

    Attributes:
        measured: joules that the counters have grown by.
        attributed: of those, requests'.
        other: those of what the server computes for itself.
        idle: those of nobody.
        unknown: seconds in which the counters could not be read, or went backwards.
    """

    measured: float = 0.0
    attributed: float = 0.0
    other: float = 0.0
    idle: float = 0.0
    unknown: float = 0.0


@dataclass(slots=True)
class _Interval:
    joules: float = 0.0
    seconds: float = 0.0
    unknown: float = 0.0


class Meter:
    """Shares out what the counters say."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.idle_watts: float | None = None
        self._last: Reading | None = None
        self._open = _Interval()

    def advance(self, reading: Reading) -> None:
        """The counters were read; what they have grown by belongs to the open interval.

        A counter that has gone backwards was reset or has wrapped, and a clock that has is none:
        nobody knows what was used meanwhile, so it counts as unknown rather than as a guess.
        """
        last, self._last = self._last, reading
        if last is None:
            return
        seconds = reading.at - last.at
        used = _used(last, reading)
        if used is None:
            self._open.unknown += max(seconds, 0.0)
            self.totals.unknown += max(seconds, 0.0)
            return
        self._open.joules += used
        self._open.seconds += seconds
        self.totals.measured += used

    def settle(
        self, work: Mapping[str, float], busy: float, known: Collection[str]
    ) -> dict[str, Share]:
        """Closes the open interval.

        Args:
            work: seconds of computing in it, by request.
            busy: seconds of it in which something was in flight.
            known: requests that somebody keeps account of; the rest is the server's own.

        Returns:
            What each of the known ones has used of it.
        """
        interval, self._open = self._open, _Interval()
        length = interval.seconds + interval.unknown
        worked = sum(work.values())
        busy = min(max(busy, min(worked, length)), length)
        if not worked:
            self._idle(interval, busy)
            return {}
        idle = self._idle_joules(interval, busy, length)
        self.totals.idle += idle
        left = interval.joules - idle
        baseline = min((self.idle_watts or 0.0) * min(busy, interval.seconds), left)
        unknown = interval.unknown * (busy / length if length else 0.0)
        whole = Share(busy, left, baseline, unknown)
        shares = {
            request_id: _part(whole, seconds / worked)
            for request_id, seconds in work.items()
            if request_id in known
        }
        attributed = sum(share.joules for share in shares.values())
        self.totals.attributed += attributed
        self.totals.other += left - attributed
        return shares

    def _idle(self, interval: _Interval, busy: float) -> None:
        """Nothing was computed: nobody's energy, and the baseline where nobody waited either."""
        self.totals.idle += interval.joules
        if busy or not interval.seconds:
            return
        watts = interval.joules / interval.seconds
        weight = min(interval.seconds / IDLE_MEMORY, 1.0)
        known = watts if self.idle_watts is None else self.idle_watts
        self.idle_watts = known + weight * (watts - known)

    def _idle_joules(self, interval: _Interval, busy: float, length: float) -> float:
        """What was used while nothing was in flight: at the baseline, or in proportion."""
        if not length:
            return 0.0
        waiting = interval.seconds * (1 - busy / length)
        even = interval.joules * (1 - busy / length)
        return even if self.idle_watts is None else min(self.idle_watts * waiting, even)


def _used(last: Reading, now: Reading) -> float | None:
    """Joules between two readings; None where they do not tell."""
    if last.joules is None or now.joules is None or now.at < last.at:
        return None
    if len(last.joules) != len(now.joules):
        return None
    grown = [new - old for old, new in zip(last.joules, now.joules, strict=True)]
    return None if any(joules < 0 for joules in grown) else sum(grown)


def _part(whole: Share, share: float) -> Share:
    return Share(
        whole.seconds * share, whole.joules * share, whole.baseline * share, whole.unknown * share
    )
