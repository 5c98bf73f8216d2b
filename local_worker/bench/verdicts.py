"""From answers to what each effort is worth. Pure."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AUTO = "auto"
AS_GOOD = 0.01
"""Of accuracy, that two efforts may differ and count as equally good."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One task at one effort.

    Attributes:
        task: its id.
        effort: that was asked for.
        chosen: that it was given: of `auto`, the level that came out.
        right: whether the checker accepts it.
        weight: of the task.
        prompt_tokens: as the server counts them.
        output_tokens: likewise, the thought included.
        thinking_tokens: of those.
        router_tokens: that choosing the effort took.
        seconds: from the request to the whole answer.
        retries: requests that failed before.
        finish_reason: as the server gives it.
    """

    task: str
    effort: str
    chosen: str
    right: bool
    weight: float
    prompt_tokens: int
    output_tokens: int
    thinking_tokens: int
    router_tokens: int
    seconds: float
    retries: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """What one effort did. Tokens and seconds are means of a task.

    Attributes:
        accuracy: share of right answers, weighted.
        low: lower end of its 95 % interval.
        high: upper end.
        thinking_tokens: what asking for the effort took included.
        tokens_per_right: tokens of all tasks by right answers; None without any.
        chosen: level -> tasks that were given it.
    """

    effort: str
    tasks: int
    accuracy: float
    low: float
    high: float
    thinking_tokens: float
    output_tokens: float
    router_tokens: float
    tokens_per_right: float | None
    seconds: float
    retries: int
    chosen: Mapping[str, int]


def row_of(answers: Sequence[Answered]) -> Row:
    """The row of one effort's answers, of which there is at least one."""
    weights = [a.weight for a in answers]
    total = sum(weights)
    right = sum(a.weight for a in answers if a.right)
    # Weighted tasks are worth as many equal ones (Kish 1965).
    effective = total * total / sum(w * w for w in weights)
    low, high = wilson(right / total * effective, effective)
    tokens = sum(a.output_tokens + a.router_tokens for a in answers)
    rights = sum(a.right for a in answers)
    levels = sorted({a.chosen for a in answers})
    return Row(
        effort=answers[0].effort,
        tasks=len(answers),
        accuracy=right / total,
        low=low,
        high=high,
        thinking_tokens=statistics.fmean(a.thinking_tokens + a.router_tokens for a in answers),
        output_tokens=statistics.fmean(a.output_tokens for a in answers),
        router_tokens=statistics.fmean(a.router_tokens for a in answers),
        tokens_per_right=tokens / rights if rights else None,
        seconds=statistics.fmean(a.seconds for a in answers),
        retries=sum(a.retries for a in answers),
        chosen={level: sum(a.chosen == level for a in answers) for level in levels},
    )


def rows_of(answers: Sequence[Answered], efforts: Sequence[str]) -> list[Row]:
    """A row for each effort that has answers, in their order."""
    groups = [[a for a in answers if a.effort == effort] for effort in efforts]
    return [row_of(group) for group in groups if group]


def cheapest(rows: Sequence[Row], bar: float) -> Row | None:
    """The effort with the fewest tokens for a right answer among those that clear the bar."""
    good = [(row.tokens_per_right, row) for row in rows if row.accuracy >= bar]
    priced = [(tokens, row) for tokens, row in good if tokens is not None]
    return min(priced, key=lambda pair: pair[0], default=(None, None))[1]


@dataclass(frozen=True, slots=True)
class Saving:
    """`auto` beside a fixed effort.

    Attributes:
        effort: the fixed one.
        thinking: share of its thinking tokens that `auto` does without; None where there are none.
        points: of accuracy that `auto` gains, from -1 to 1.
    """

    effort: str
    thinking: float | None
    points: float


def saving(rows: Sequence[Row]) -> Saving | None:
    """`auto` beside the best fixed effort: of the most accurate ones, the one that thinks least."""
    auto = next((row for row in rows if row.effort == AUTO), None)
    fixed = [row for row in rows if row.effort != AUTO]
    if auto is None or not fixed:
        return None
    most = max(row.accuracy for row in fixed)
    best = min(
        (row for row in fixed if row.accuracy >= most - AS_GOOD), key=lambda r: r.thinking_tokens
    )
    return against(auto, best)


def against(auto: Row, fixed: Row) -> Saving:
    """`auto` beside one fixed effort."""
    spent = fixed.thinking_tokens
    less = 1 - auto.thinking_tokens / spent if spent else None
    return Saving(fixed.effort, less, auto.accuracy - fixed.accuracy)


def wilson(right: float, total: float, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson 1927), as two shares."""
    if total == 0:
        return 0.0, 1.0
    share, square = right / total, z * z
    middle = share + square / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    return (middle - spread) / (1 + square / total), (middle + spread) / (1 + square / total)
