from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from local_worker.bench import verdicts
from local_worker.bench.verdicts import (
    Answered,
    Pricing,
    Saving,
    against,
    cheapest,
    saving,
    wilson,
)
from local_worker.economics.costs import Costs, Hardware, Review
from local_worker.economics.prices import Price

PLAIN = Pricing(Costs())


def rows_of(answers, efforts, pricing=PLAIN):
    return verdicts.rows_of(answers, efforts, pricing)


def answers(effort, right, wrong, *, thinking=10, router=0, weight=1.0, chosen=None):
    return [
        Answered(
            task=f"{effort}-{n}",
            effort=effort,
            chosen=chosen or effort,
            right=n < right,
            weight=weight,
            prompt_tokens=5,
            output_tokens=thinking + 5,
            thinking_tokens=thinking,
            router_tokens=router,
            seconds=0.5,
            retries=0,
            finish_reason="stop",
        )
        for n in range(right + wrong)
    ]


def test_a_row_says_what_an_effort_did():
    (row,) = rows_of(answers("low", 8, 2, thinking=20, router=4), ["none", "low"])
    assert (row.effort, row.tasks, row.accuracy, row.seconds) == ("low", 10, 0.8, 0.5)
    assert row.thinking_tokens == 24, "asking for the effort is thinking, too"
    assert row.router_tokens == 4
    assert row.output_tokens == 25
    assert row.tokens_per_right == 290 / 8
    assert (row.low, row.high) == pytest.approx(wilson(8, 10))


def test_nothing_right_has_no_price():
    (row,) = rows_of(answers("low", 0, 3), ["low"])
    assert row.tokens_per_right is None
    assert cheapest([row], 0.0) is None


def test_weights_count_and_widen_the_interval():
    heavy = answers("low", 1, 0, weight=3.0)
    (row,) = rows_of(heavy + answers("low", 0, 3), ["low"])
    assert row.accuracy == 0.5
    assert (row.low, row.high) == pytest.approx(wilson(1.5, 3.0)), "36 / 12 equal tasks"


def test_the_cheapest_effort_that_clears_the_bar():
    found = answers("none", 7, 3, thinking=0) + answers("low", 9, 1)
    found += answers("high", 10, 0, thinking=100)
    rows = rows_of(found, ["none", "low", "high"])
    assert [getattr(cheapest(rows, bar), "effort", None) for bar in (0.5, 0.8, 0.95)] == [
        "none", "low", "high",
    ]  # fmt: skip
    assert cheapest(rows[:1], 0.8) is None


def test_auto_beside_the_best_fixed_effort():
    auto = answers("auto", 99, 1, thinking=20, router=5)
    fixed = answers("medium", 99, 1, thinking=50) + answers("high", 100, 0, thinking=100)
    rows = rows_of(auto + fixed, ["medium", "high", "auto"])
    best = saving(rows)
    assert best == Saving("medium", 0.5, 0.0), "as good as the most accurate one, and cheaper"
    high = against(rows[2], rows[1])
    assert (high.effort, high.thinking) == ("high", 0.75)
    assert high.points == pytest.approx(-0.01)


def test_without_auto_or_anything_beside_it_nothing_is_compared():
    assert saving(rows_of(answers("low", 1, 0), ["low"])) is None
    assert saving(rows_of(answers("auto", 1, 0), ["auto"])) is None
    free = saving(rows_of(answers("auto", 1, 0) + answers("none", 1, 0, thinking=0),
                          ["none", "auto"]))  # fmt: skip
    assert free is not None
    assert free.thinking is None


def test_wilson_intervals():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(98, 100) == pytest.approx((0.930, 0.994), abs=0.001)


MACHINE = Costs(
    hardware=Hardware(price=31557.6, lifetime_years=1.0, utilisation=1.0, upkeep_per_year=0.0),
    review=Review(share=0.1, minutes=6.0, wage_per_hour=10.0),
    failure_cost=0.5,
    retry_cost=0.25,
)  # a thousandth a second


def took(found, seconds, joules=10.0):
    return [replace(a, machine_seconds=seconds, joules=joules, energy_source="RAPL") for a in found]


def test_a_row_costs_what_the_machine_and_people_cost():
    found = took(answers("low", 8, 2), 2.0)
    found[0] = replace(found[0], retries=2)
    (row,) = rows_of(found, ["low"], Pricing(MACHINE))
    assert row.joules == 10.0
    assert row.machine_seconds == 2.0
    assert row.cost is not None
    electricity = 100.0 / 3.6e6 * 0.30
    assert row.cost.parts == pytest.approx(
        {
            "machine": 0.02 + electricity, "tools": 0.0, "retries": 0.5, "review": 1.0,
            "failures": 1.0,
        }
    )  # fmt: skip
    assert row.cost.per_accepted == pytest.approx((2.52 + electricity) / 8)


def test_one_answer_that_does_not_tell_leaves_it_open():
    found = took(answers("low", 2, 0), 2.0) + answers("low", 1, 0)
    (row,) = rows_of(found, ["low"], Pricing(MACHINE))
    assert row.cost is None
    assert row.joules is None


def test_an_api_is_reckoned_by_its_price():
    price = Price(
        model="api", kind="worker", input=1.0, output=5.0, since=datetime.date(2026, 1, 1)
    )
    (row,) = rows_of(answers("low", 10, 0), ["low"], Pricing(Costs(one_usd=2.0), price))
    assert row.cost is not None
    assert row.cost.per_output == pytest.approx(2 * (5 * 1.0 + 15 * 5.0) / 1e6)


def test_cheapest_is_what_an_accepted_answer_costs():
    """Few tokens that take long are dear, and wrong answers are paid for by the others."""
    slow = took(answers("none", 19, 1, thinking=0), 3.0)
    quick = took(answers("low", 20, 0, thinking=50), 1.0)
    rows = rows_of(slow + quick, ["none", "low"], Pricing(Costs()))
    least = cheapest(rows, 0.9)
    assert least is not None
    assert least.effort == "low"
