"""From the times of requests to what a run was like, and from pairs of runs to ratios. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_worker.bench.scenario import Goal

NOISY = 1.5
"""A ratio whose highest pair is so many times its lowest says little."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One request.

    Attributes:
        sent: seconds on the run's clock.
        chunks: when each piece of the answer arrived.
        output_tokens: as the server counts them.
        prompt_tokens: likewise.
        cached_tokens: likewise, of the prompt; 0 where it does not say.
    """

    sent: float
    chunks: tuple[float, ...]
    output_tokens: int
    prompt_tokens: int
    cached_tokens: int = 0

    @property
    def ttft(self) -> float:
        """Time to first token."""
        return self.chunks[0] - self.sent

    @property
    def gaps(self) -> tuple[float, ...]:
        """Inter-token latencies."""
        return tuple(b - a for a, b in itertools.pairwise(self.chunks))


@dataclass(frozen=True, slots=True)
class Summary:
    """A run. Times are seconds; rates are per second of the whole run.

    Attributes:
        goodput: requests/s that met the goal; None without one.
        beside: inter-token latency p99 while the intruder's prompt was computed; None without one.
    """

    seconds: float
    tokens_per_s: float
    requests_per_s: float
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float
    e2e_p50: float
    e2e_p99: float
    prompt_tokens: int
    cached_tokens: int
    goodput: float | None = None
    beside: float | None = None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def summarise(
    requests: Sequence[Timed],
    seconds: float,
    goal: Goal | None = None,
    intruder: Timed | None = None,
) -> Summary:
    """What a run was like; the intruder's own times count for nothing."""
    ttft = [r.ttft for r in requests]
    gaps = [gap for r in requests for gap in r.gaps]
    ends = [r.chunks[-1] - r.sent for r in requests]
    good = None
    if goal is not None:
        met = [r for r in requests if r.ttft <= goal.ttft and percentile(r.gaps, 0.99) <= goal.itl]
        good = len(met) / seconds
    beside = None
    if intruder is not None:
        beside = percentile(_during(requests, intruder), 0.99)
        gaps = _outside(requests, intruder)
    return Summary(
        seconds=seconds,
        tokens_per_s=sum(r.output_tokens for r in requests) / seconds,
        requests_per_s=len(requests) / seconds,
        ttft_p50=percentile(ttft, 0.5),
        ttft_p99=percentile(ttft, 0.99),
        itl_p50=percentile(gaps, 0.5),
        itl_p99=percentile(gaps, 0.99),
        e2e_p50=percentile(ends, 0.5),
        e2e_p99=percentile(ends, 0.99),
        prompt_tokens=sum(r.prompt_tokens for r in requests),
        cached_tokens=sum(r.cached_tokens for r in requests),
        goodput=good,
        beside=beside,
    )


def _during(requests: Sequence[Timed], intruder: Timed) -> list[float]:
    """Gaps that ended while its prompt was being computed."""
    start, end = intruder.sent, intruder.chunks[0]
    return [b - a for r in requests for a, b in itertools.pairwise(r.chunks) if start < b <= end]


def _outside(requests: Sequence[Timed], intruder: Timed) -> list[float]:
    """Gaps before it came, once all of them were streaming."""
    start, end = max(r.chunks[0] for r in requests), intruder.sent
    return [b - a for r in requests for a, b in itertools.pairwise(r.chunks) if start < a < b < end]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours to theirs over pairs of runs."""

    median: float
    lowest: float
    highest: float

    @property
    def is_noisy(self) -> bool:
        """Whether the pairs differ too much to be worth quoting."""
        return self.highest > NOISY * self.lowest


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of the pairs one by one: what disturbs a machine disturbs both runs of a pair alike."""
    pairs = [a / b if b else math.nan for a, b in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(pairs), min(pairs), max(pairs))
