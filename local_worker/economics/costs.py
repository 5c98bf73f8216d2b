"""From joules and seconds to money, and to the price of an accepted output. Pure.

    cost of an accepted output = (electricity + hardware + tools + retries + review + failures)
                                 / outputs that were accepted

All of it is paid for by the outputs that are of use: a wrong one costs its tokens, its review and
what it does. Hardware is paid for by the seconds in which it computes, so a machine that is idle
most of the time makes each of them dear; so is the electricity that it takes meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter, model_validator

from local_worker import documents
from local_worker.documents import Record

if TYPE_CHECKING:
    from pathlib import Path

    from local_worker.economics.energy import Share

SECONDS_PER_YEAR = 365.25 * 86400
JOULES_PER_KWH = 3.6e6

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Portion = Annotated[float, Field(ge=0, le=1)]


class Hardware(Record):
    """The machine.

    Attributes:
        price: of it.
        lifetime_years: until it is worth nothing.
        utilisation: share of that time in which it computes.
        upkeep_per_year: repairs, space, care.
    """

    price: Amount = 2000.0
    lifetime_years: Positive = 4.0
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.25
    upkeep_per_year: Amount = 100.0

    @property
    def per_year(self) -> float:
        """What it costs to have it."""
        return self.price / self.lifetime_years + self.upkeep_per_year


class Electricity(Record):
    """`overhead`: kWh taken from the grid for one that the machine uses."""

    price_per_kwh: Amount = 0.30
    overhead: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0

    def price(self, joules: float) -> float:
        """Of so much energy."""
        return joules / JOULES_PER_KWH * self.overhead * self.price_per_kwh


class Review(Record):
    """People who look at outputs: how many of them, for how long, at what wage."""

    share: Portion = 0.0
    minutes: Amount = 1.0
    wage_per_hour: Amount = 40.0

    @property
    def per_output(self) -> float:
        """On average."""
        return self.share * self.minutes / 60 * self.wage_per_hour


class Costs(Record):
    """A cost file; `costs.yaml` says what each figure is."""

    currency: Annotated[str, Field(min_length=1, max_length=8)] = "USD"
    one_usd: Positive = 1.0
    hardware: Hardware = Hardware()
    electricity: Electricity = Electricity()
    review: Review = Review()
    failure_cost: Amount = 0.0
    retry_cost: Amount = 0.0
    tool_cost: Amount = 0.0

    @model_validator(mode="after")
    def _check_currency(self) -> Costs:
        if self.currency != "USD" and "one_usd" not in self.model_fields_set:
            raise ValueError(f"`one_usd` is missing: what a US dollar is in {self.currency}")
        return self

    def of_share(self, share: Share) -> RequestCost:
        """What a share of the machine costs.

        Beside its own energy it pays for the machine's idling, unless nobody knows what that is.
        """
        machine = self.hardware
        second = machine.per_year / (SECONDS_PER_YEAR * machine.utilisation)
        # For each second at work it is idle for so many.
        idle = share.seconds * (1 / machine.utilisation - 1) * share.baseline_watts
        return RequestCost(
            electricity=self.electricity.price(share.joules),
            idle_electricity=self.electricity.price(idle),
            hardware=share.seconds * second,
        )

    def of_outputs(self, machine: float, work: Outputs) -> TaskCost:
        """What outputs cost in all, and each accepted one.

        Args:
            machine: electricity and hardware of all attempts.
            work: what came of it.
        """
        parts = {
            "machine": machine,
            "tools": work.outputs * self.tool_cost,
            "retries": work.retries * self.retry_cost,
            "review": work.outputs * self.review.per_output,
            "failures": (work.outputs - work.accepted) * self.failure_cost,
        }
        total = sum(parts.values())
        return TaskCost(
            parts=parts,
            total=total,
            per_output=total / work.outputs if work.outputs else None,
            per_accepted=total / work.accepted if work.accepted else None,
        )


@dataclass(frozen=True, slots=True)
class RequestCost:
    """Of one request, in the cost file's currency."""

    electricity: float
    idle_electricity: float
    hardware: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.electricity + self.idle_electricity + self.hardware


@dataclass(frozen=True, slots=True)
class Outputs:
    """What came of work: outputs, how many of them are accepted, and attempts beyond the first."""

    outputs: int
    accepted: int
    retries: int = 0


@dataclass(frozen=True, slots=True)
class TaskCost:
    """Of several outputs; `per_accepted` is None where none is accepted."""

    parts: dict[str, float]
    total: float
    per_output: float | None
    per_accepted: float | None


_COSTS = TypeAdapter(Costs)


def default_text() -> str:
    """The shipped file, comments and all."""
    return (resources.files("local_worker.economics") / "costs.yaml").read_text()


def load_costs(path: Path | None) -> Costs:
    """The figures of a file, or the shipped ones.

    Raises:
        ConfigError: it cannot be read, or a figure makes no sense; with the line.
    """
    if path is None:
        return documents.parse(_COSTS, default_text(), "costs.yaml")
    return documents.read(_COSTS, path)
