"""From a suite's answers at many budgets to a model's own table of efforts. Pure.

A level keeps what it is for and costs no more than it has to: it gets the smallest budget that was
measured and is as good as the one it has. Whether a thought may end early is decided likewise: if
that is as good and takes fewer tokens.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_worker.bench.verdicts import AS_GOOD, AUTO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from local_worker.bench.verdicts import Row

EARLY, WHOLE = f"{AUTO}+early", f"{AUTO}-early"
"""What is asked for to see `auto` with thoughts that may end early, and without."""


def budgets_to_try(ladder: Mapping[str, int]) -> list[int]:
    """Those of the levels, and one between each two of them.

    Args:
        ladder: level -> thinking tokens, from none on.
    """
    known = sorted(set(ladder.values()))
    between = [
        round(math.sqrt(low * high)) if low else high // 2
        for low, high in itertools.pairwise(known)
    ]
    return sorted({*known, *between})


@dataclass(frozen=True, slots=True)
class Found:
    """A calibrated table.

    Attributes:
        effort: level -> thinking tokens.
        early_exit: whether thoughts that `auto` has chosen may end early; None where that was not
            measured.
        notes: what it follows from, a line each.
    """

    effort: dict[str, int]
    early_exit: bool | None
    notes: tuple[str, ...]


def calibrated(rows: Sequence[Row], ladder: Mapping[str, int]) -> Found:
    """The table that the rows of `budgets_to_try` (named by their budgets) and of auto give."""
    by_budget = {int(row.effort): row for row in rows if row.effort.isdigit()}
    effort: dict[str, int] = {}
    for level, budget in ladder.items():
        good = by_budget[budget].accuracy - AS_GOOD
        smallest = min(b for b, row in by_budget.items() if b <= budget and row.accuracy >= good)
        # No level is worth less than the one below it.
        effort[level] = max([smallest, *effort.values()]) if budget else 0
    named = {row.effort: row for row in rows}
    early, whole = named.get(EARLY), named.get(WHOLE)
    pays = None
    if early is not None and whole is not None:
        pays = (
            early.accuracy >= whole.accuracy - AS_GOOD
            and early.thinking_tokens < whole.thinking_tokens
        )
    return Found(effort, pays, tuple(_notes(rows)))


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield (
            f"{row.effort:>10}: {100 * row.accuracy:5.1f} % right "
            f"({100 * row.low:.1f}-{100 * row.high:.1f}), {row.thinking_tokens:.1f} thinking tokens"
        )


def as_yaml(found: Found, model: str, measured: str) -> str:
    """A file for `serve --calibration`.

    Args:
        found: the table.
        model: whose.
        measured: when and by what, in words.
    """
    lines = [f"# {measured}", *(f"# {note}" for note in found.notes), f"model: {model}", "effort:"]
    lines += [f"  {level}: {budget}" for level, budget in found.effort.items()]
    if found.early_exit is not None:
        lines.append(f"early_exit: {str(found.early_exit).lower()}")
    return "\n".join(lines) + "\n"
