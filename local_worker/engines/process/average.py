"""What steps take, as of lately. Pure."""

from __future__ import annotations

LEARNING = 0.2
"""Weight of the newest step."""

OUTLIER = 4.0
"""A step that takes so many times longer than expected was held up from outside."""


def mixed(known: float | None, seen: float, *, outlier: float) -> float:
    """A moving average with one more value.

    Args:
        known: so far; None before the first value.
        seen: the newest.
        outlier: so many times the average, a value was held up from outside and counts as that.
    """
    if known is None:
        return seen
    return known + LEARNING * (min(seen, outlier * known) - known)
