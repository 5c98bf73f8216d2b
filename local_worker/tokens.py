"""What prompts have in common, for the API and the engines alike. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def common_length(a: Sequence[object], b: Sequence[object]) -> int:
    """Tokens that two sequences begin with alike."""
    count = min(len(a), len(b))
    if a[:count] == b[:count]:
        return count
    low, high = 0, count  # alike up to low, not up to high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def cached_tokens(cached: Sequence[int], prompts: int) -> int:
    """Tokens of several prompts that none of their sequences computed.

    Args:
        cached: of each sequence; as many for each prompt, prompt by prompt.
        prompts: how many.
    """
    each = len(cached) // prompts
    return sum(min(cached[i : i + each]) for i in range(0, len(cached), each))
