"""From answers to what each effort is worth. Pure."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_worker.economics.costs import Outputs
from local_worker.economics.energy import Share
from local_worker.economics.prices import Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from local_worker.economics.costs import Costs, TaskCost
    from local_worker.economics.prices import Price

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
        cached_tokens: of the prompt's, that were not computed.
        machine_seconds: of the server's machine; None where it does not say.
        joules: likewise.
        baseline_joules: of those, what it would have taken anyway.
        unknown_seconds: of its time, for which no energy is known.
        energy_source: where the joules come from.
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
    cached_tokens: int = 0
    machine_seconds: float | None = None
    joules: float | None = None
    baseline_joules: float = 0.0
    unknown_seconds: float = 0.0
    energy_source: str = ""

    @property
    def share(self) -> Share | None:
        """Of the machine; None where the server does not tell."""
        if self.machine_seconds is None or self.joules is None:
            return None
        return Share(self.machine_seconds, self.joules, self.baseline_joules, self.unknown_seconds)

    @property
    def tokens(self) -> Tokens:
        """What an API would count."""
        return Tokens(self.prompt_tokens, self.cached_tokens, self.output_tokens)


@dataclass(frozen=True, slots=True)
class Pricing:
    """What answers are paid for with.

    Attributes:
        costs: of machine and people.
        price: of the API that gives them; None where this machine does.
    """

    costs: Costs
    price: Price | None = None

    def cost(self, answers: Sequence[Answered]) -> TaskCost | None:
        """Of all of them; None where nobody knows what they took."""
        if self.price is not None:
            dollars = sum(self.price.of(answer.tokens) for answer in answers)
            made = dollars * self.costs.one_usd
        else:
            shares = [answer.share for answer in answers]
            if None in shares:
                return None
            made = sum(self.costs.of_share(share).total for share in shares if share)
        right = sum(answer.right for answer in answers)
        retries = sum(answer.retries for answer in answers)
        return self.costs.of_outputs(made, Outputs(len(answers), right, retries))


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
        cost: of all tasks; None where nobody knows what they took.
        joules: of a task, on average; None likewise.
        machine_seconds: likewise.
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
    cost: TaskCost | None = None
    joules: float | None = None
    machine_seconds: float | None = None


def row_of(answers: Sequence[Answered], pricing: Pricing) -> Row:
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
    shares = [a.share for a in answers if a.share is not None]
    told = sum(shares, Share()) if len(shares) == len(answers) else None
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
        cost=pricing.cost(answers),
        joules=None if told is None else told.joules / len(answers),
        machine_seconds=None if told is None else told.seconds / len(answers),
    )


def rows_of(answers: Sequence[Answered], efforts: Sequence[str], pricing: Pricing) -> list[Row]:
    """A row for each effort that has answers, in their order."""
    groups = [[a for a in answers if a.effort == effort] for effort in efforts]
    return [row_of(group, pricing) for group in groups if group]


def cheapest(rows: Sequence[Row], bar: float) -> Row | None:
    """The effort that clears the bar at the lowest cost of an accepted answer.

    Where nobody knows what the answers cost, the one with the fewest tokens for it.
    """
    good = [row for row in rows if row.accuracy >= bar and row.tokens_per_right is not None]
    priced = all(row.cost is not None for row in good)

    def price(row: Row) -> float:
        return (row.cost.per_accepted if priced and row.cost else row.tokens_per_right) or 0.0

    return min(good, key=price, default=None)


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


def energy_sources(answers: Sequence[Answered]) -> list[str]:
    """Where the joules of answers come from; none where nobody tells."""
    return sorted({answer.energy_source for answer in answers} - {""})


def wilson(right: float, total: float, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson 1927), as two shares."""
    if total == 0:
        return 0.0, 1.0
    share, square = right / total, z * z
    middle = share + square / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    return (middle - spread) / (1 + square / total), (middle + spread) / (1 + square / total)
