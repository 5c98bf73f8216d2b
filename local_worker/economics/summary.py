"""What the ledger says, added up."""

from __future__ import annotations

import datetime
import re
import sqlite3
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

from local_worker.economics.energy import Share
from local_worker.economics.prices import Tokens
from local_worker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

Group = Literal["model", "effort", "key", "engine", "route", "finish_reason", "day"]
GROUPS: tuple[Group, ...] = get_args(Group)

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}

_SUMS = """
count(*) AS requests,
sum(finish_reason IN ('stop', 'length', 'mixed')) AS finished,
sum(prompt_tokens) AS prompt_tokens,
sum(cached_tokens) AS cached_tokens,
sum(thinking_tokens) AS thinking_tokens,
sum(output_tokens) AS output_tokens,
sum(router_tokens) AS router_tokens,
sum(machine_seconds) AS machine_seconds,
sum(joules) AS joules,
sum(baseline_joules) AS baseline_joules,
sum(unknown_seconds) AS unknown_seconds,
sum(cost) AS cost,
currency,
group_concat(DISTINCT energy_source) AS energy_sources
"""
_DAY = "date(time, 'unixepoch', 'localtime')"


@dataclass(frozen=True, slots=True)
class Line:
    """Requests that have something in common.

    Attributes:
        group: what that is; `all` where nobody asked.
        requests: that the engine had to do with.
        finished: of those, that came to their end.
        prompt_tokens: and the other tokens: of all of them.
        machine_seconds: of the machine's time.
        joules: that were measured, or estimated.
        baseline_joules: of those, what the machine would have taken anyway.
        unknown_seconds: for which no energy is known.
        cost: electricity and hardware.
        currency: of the cost.
        energy_sources: where the joules come from.
    """

    group: str
    requests: int
    finished: int
    prompt_tokens: int
    cached_tokens: int
    thinking_tokens: int
    output_tokens: int
    router_tokens: int
    machine_seconds: float
    joules: float
    baseline_joules: float
    unknown_seconds: float
    cost: float
    currency: str
    energy_sources: str

    @property
    def share(self) -> Share:
        """Of energy and time."""
        return Share(self.machine_seconds, self.joules, self.baseline_joules, self.unknown_seconds)

    @property
    def tokens(self) -> Tokens:
        """What an API would count."""
        return Tokens(self.prompt_tokens, self.cached_tokens, self.output_tokens)


def since(text: str, now: float | None = None) -> float:
    """A point in time: a duration before now (`30m`, `24h`, `7d`, `2w`), or a date.

    Raises:
        ConfigError: it is neither.
    """
    now = time.time() if now is None else now
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    if found:
        return now - int(found[1]) * _UNITS[found[2]]
    try:
        return datetime.datetime.fromisoformat(text.strip()).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(
            f"--since {text!r} is neither a duration (30m, 24h, 7d, 2w) nor a date (2026-11-01)"
        ) from None


def summarise(connection: sqlite3.Connection, start: float, by: Group | None) -> list[Line]:
    """The ledger from `start` on, a line for each group and currency, the dearest first.

    Raises:
        ConfigError: it is broken.
    """
    column = {None: "'all'", "day": _DAY}.get(by, by)
    order = "grouped" if by == "day" else "cost DESC"
    try:
        cursor = connection.execute(
            f"SELECT {column} AS grouped, {_SUMS} FROM requests WHERE time >= ? "  # noqa: S608 - ours
            f"GROUP BY grouped, currency ORDER BY {order}",
            (start,),
        )
        return [_line(values, [name for name, *_ in cursor.description]) for values in cursor]
    except sqlite3.Error as error:
        raise ConfigError(f"the ledger cannot be read: {error}") from None


def _line(values: Sequence[object], names: Sequence[str]) -> Line:
    found = dict(zip(names, values, strict=True))
    found["group"] = found.pop("grouped")
    return Line(**{field.name: found[field.name] for field in fields(Line)})  # type: ignore[arg-type]
