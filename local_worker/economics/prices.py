"""What APIs ask for the same tokens, and from which volume on an own machine is cheaper. Pure."""

from __future__ import annotations

import datetime  # noqa: TC003 - pydantic reads the annotations at run time
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from local_worker import documents
from local_worker.documents import Record
from local_worker.economics.costs import Amount  # noqa: TC001 - likewise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from local_worker.economics.costs import Costs

MONTHS = 12
SECONDS_PER_MONTH = 365.25 * 86400 / MONTHS
MILLION = 1e6


class Price(Record):
    """What an API asks for a million tokens, in US dollars.

    Attributes:
        model: its name.
        kind: the best there is, made for many small jobs, or open weights that others host.
        input: of the prompt.
        cached: of the prompt's tokens that it has seen before; None is `input`.
        output: thoughts included.
        since: from when on it asks that, or was seen to.
        until: when that ends.
        source: where it was seen.
    """

    model: Annotated[str, Field(min_length=1)]
    kind: Literal["frontier", "worker", "open"]
    input: Amount
    cached: Amount | None = None
    output: Amount
    since: datetime.date
    until: datetime.date | None = None
    source: str = ""

    def of(self, tokens: Tokens) -> float:
        """What so many tokens cost there, in US dollars."""
        cached = self.input if self.cached is None else self.cached
        fresh = tokens.prompt - tokens.cached
        money = fresh * self.input + tokens.cached * cached + tokens.output * self.output
        return money / MILLION


class PriceList(Record):
    """A price file."""

    prices: tuple[Price, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _check_names(self) -> PriceList:
        names = [price.model for price in self.prices]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice!r} is there twice")
        return self


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of some work.

    Attributes:
        prompt: all of the prompts.
        cached: of those, that an API would have seen before.
        output: answers and thoughts.
    """

    prompt: float
    cached: float
    output: float


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From which volume on an own machine is cheaper than an API.

    Attributes:
        price: the API's.
        task: what a task costs there, in the cost file's currency.
        tasks_per_month: from so many on; None where it never is.
        share: of what the machine can do in a month; above 1, as many as it would take are more
            than it can do. None where a task's electricity alone is dearer than all of it there.
    """

    price: Price
    task: float
    tasks_per_month: float | None
    share: float | None


def break_even(price: Price, tokens: Tokens, own: OwnTask, costs: Costs) -> BreakEven:
    """Compares one task's price with what it takes to have the machine.

    The machine is there whether or not it works; each task adds its electricity. So it is worth
    having once the API would have taken more than machine and electricity together.
    """
    task = price.of(tokens) * costs.one_usd
    saved = task - own.electricity
    if saved <= 0:
        return BreakEven(price, task, None, None)
    tasks = own.month(costs) / saved
    share = tasks / own.per_month
    return BreakEven(price, task, tasks if share <= 1 else None, share)


@dataclass(frozen=True, slots=True)
class OwnTask:
    """A task on the own machine.

    Attributes:
        seconds: of the machine's time.
        electricity: beyond idling, in the cost file's currency.
        idle_month: what a month of idling costs; 0 where that is not known.
    """

    seconds: float
    electricity: float
    idle_month: float

    @property
    def per_month(self) -> float:
        """So many of them at the most."""
        return SECONDS_PER_MONTH / self.seconds

    def month(self, costs: Costs) -> float:
        """What having the machine costs in a month, whether or not it works."""
        return costs.hardware.per_year / MONTHS + self.idle_month


_LIST = TypeAdapter(PriceList)


def default_text() -> str:
    """The shipped file, comments and all."""
    return (resources.files("local_worker.economics") / "prices.yaml").read_text()


def current(prices: Sequence[Price], today: datetime.date) -> tuple[Price, ...]:
    """Those that hold today."""
    return tuple(
        price
        for price in prices
        if price.since <= today and (price.until is None or today <= price.until)
    )


def load_prices(path: Path | None) -> tuple[Price, ...]:
    """The prices of a file, or the shipped ones, whether or not they hold today.

    Raises:
        ConfigError: it cannot be read, or something in it makes no sense; with the line.
    """
    if path is None:
        return documents.parse(_LIST, default_text(), "prices.yaml").prices
    return documents.read(_LIST, path).prices
