"""From a suite's rows to where the work is best done: on this machine, or at an API. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_worker.bench.html import Bar, Chart, Plot, Section, Series
from local_worker.bench.verdicts import energy_sources
from local_worker.economics.energy import Share
from local_worker.economics.prices import (
    SECONDS_PER_MONTH,
    OwnTask,
    Tokens,
    break_even,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_worker.bench.verdicts import Answered, Row
    from local_worker.economics.costs import Costs
    from local_worker.economics.prices import BreakEven, Price

MOST_APIS = 6
"""Lines that a plot can carry."""


@dataclass(frozen=True, slots=True)
class Own:
    """A task on this machine.

    Attributes:
        tokens: of it, on average.
        task: time and electricity.
    """

    tokens: Tokens
    task: OwnTask


def own_task(answers: Sequence[Answered], costs: Costs) -> Own | None:
    """A task at one effort, on average; None where the server did not tell what it took."""
    shares = [answer.share for answer in answers if answer.share is not None]
    count, whole = len(answers), sum(shares, Share())
    if len(shares) < count or not whole.seconds:
        return None
    mean = statistics.fmean
    tokens = Tokens(
        mean(a.prompt_tokens for a in answers),
        0.0,  # prompts of a suite are too short and too different for an API to have them cached
        mean(a.output_tokens for a in answers),
    )
    price = costs.electricity.price
    task = OwnTask(
        seconds=whole.seconds / count,
        electricity=price(whole.joules - whole.baseline) / count,
        idle_month=price(whole.baseline_watts * SECONDS_PER_MONTH),
    )
    return Own(tokens, task)


def efforts_section(rows: Sequence[Row], answers: Sequence[Answered], currency: str) -> Section:
    """What each effort costs for what it gets right, and the machine's speed and energy."""
    head = ["", "right", f"{currency} per 1,000 accepted", "machine", "review", "failures",
            "retries and tools", "tokens/s of machine time", "J per token"]  # fmt: skip
    table = [head]
    points: list[Series] = []
    speeds, joules = [], []
    for row in rows:
        cost = row.cost
        if cost is None or cost.per_accepted is None:
            table.append([row.effort, f"{100 * row.accuracy:.1f} %", *(["-"] * 7)])
            continue
        of_row = [a for a in answers if a.effort == row.effort]
        output = sum(a.output_tokens + a.router_tokens for a in of_row)
        seconds = (row.machine_seconds or 0.0) * row.tasks
        per_second = output / seconds if seconds else 0.0
        per_token = (row.joules or 0.0) * row.tasks / output if output else 0.0
        table.append([
            row.effort, f"{100 * row.accuracy:.1f} %",
            *(f"{1000 * amount / row.tasks:.4g}" for amount in (
                cost.per_accepted * row.tasks, cost.parts["machine"], cost.parts["review"],
                cost.parts["failures"], cost.parts["retries"] + cost.parts["tools"])),
            f"{per_second:,.0f}", f"{per_token:.3g}",
        ])  # fmt: skip
        points.append(Series(row.effort, [(1000 * cost.per_accepted, 100 * row.accuracy)]))
        speeds.append(Bar(row.effort, [per_second]))
        joules.append(Bar(row.effort, [per_token]))
    plot = Plot(
        "accuracy against cost, by effort",
        f"{currency} per 1,000 accepted tasks",
        "right, %",
        points,
    )
    charts = [Chart("output tokens per second of machine time", speeds),
              Chart("joules per output token", joules)]  # fmt: skip
    notes = ["parts are of 1,000 tasks; all of them are paid for by the accepted ones"]
    return Section("What an accepted task costs", table, charts, [plot], notes)


def break_even_section(row: Row, own: Own, costs: Costs, prices: Sequence[Price]) -> Section:
    """From which volume this machine is cheaper than each API, at one effort."""
    found = [break_even(price, own.tokens, own.task, costs) for price in prices]
    head = ["", "made for", "as of", f"{costs.currency} per 1,000 tasks",
            "cheaper here from", "of what the machine can do"]  # fmt: skip
    table = [head]
    for one in found:
        price = one.price
        volume = "never" if one.tasks_per_month is None else f"{one.tasks_per_month:,.0f} a month"
        share = "-" if one.share is None else f"{100 * one.share:.3g} %"
        table.append(
            [price.model, price.kind, str(price.since), f"{1000 * one.task:.4g}", volume, share]
        )
    month = own.task.month(costs)
    task, money = own.task, costs.currency
    notes = [
        (
            f"effort {row.effort}: {task.seconds:.3g} s of machine time a task, so at most "
            f"{task.per_month:,.0f} tasks a month"
        ),
        (
            f"having the machine: {month:,.2f} {money} a month with the electricity of its idling, "
            f"and {1000 * task.electricity:.3g} more for 1,000 tasks"
        ),
        (
            "an API's model may get more or less of these tasks right: ask it the same suite with "
            "--url and --price"
        ),
    ]
    plot = _volumes(found, own.task, month, costs.currency)
    return Section("From which volume on this machine is cheaper", table, (), [plot], notes)


def _volumes(found: Sequence[BreakEven], task: OwnTask, month: float, currency: str) -> Plot:
    reached = [one.tasks_per_month for one in found if one.tasks_per_month is not None]
    most = min(task.per_month, 1.5 * max(reached, default=task.per_month))
    series = [Series("here", [(0.0, month), (most, month + most * task.electricity)], line=True)]
    top = 3 * (month + most * task.electricity)
    for one in sorted(found, key=lambda one: one.task)[:MOST_APIS]:
        end = min(most, top / one.task) if one.task else most
        series.append(Series(one.price.model, [(0.0, 0.0), (end, end * one.task)], line=True))
    return Plot("a month, by volume", "tasks a month", currency, series)


def basis_section(costs: Costs, answers: Sequence[Answered], where: str) -> Section:
    """What all of it rests on."""
    machine, power, review = costs.hardware, costs.electricity, costs.review
    sources = energy_sources(answers) or ["the server does not tell"]
    unknown = sum(a.unknown_seconds for a in answers)
    money = costs.currency
    table = [
        ["", ""],
        ["cost file", where],
        ["machine", f"{machine.price:,.0f} {money} over {machine.lifetime_years:g} years"],
        ["of that time at work", f"{100 * machine.utilisation:g} %"],
        ["upkeep", f"{machine.upkeep_per_year:,.0f} {money} a year"],
        ["electricity", f"{power.price_per_kwh:g} {money}/kWh, times {power.overhead:g}"],
        ["outputs that somebody reviews", f"{100 * review.share:g} %"],
        ["each of those", f"{review.minutes:g} min at {review.wage_per_hour:g} {money}/h"],
        ["a wrong output", f"{costs.failure_cost:g} {money}"],
        ["a retry", f"{costs.retry_cost:g} {money}"],
        ["tools for an output", f"{costs.tool_cost:g} {money}"],
        ["energy", "; ".join(sources)],
    ]
    if unknown:
        table.append(["energy unknown for", f"{unknown:.1f} s of machine time"])
    return Section("What this rests on", table)
