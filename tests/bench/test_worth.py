from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from local_worker.bench.verdicts import Pricing, rows_of
from local_worker.bench.worth import (
    basis_section,
    break_even_section,
    efforts_section,
    own_task,
)
from local_worker.economics.costs import Costs, Electricity, Hardware
from local_worker.economics.prices import SECONDS_PER_MONTH, Price
from tests.bench.test_verdicts import answers, took

COSTS = Costs(
    hardware=Hardware(price=1200.0, lifetime_years=1.0, utilisation=0.5, upkeep_per_year=0.0),
    electricity=Electricity(price_per_kwh=0.36),
)
FOUND = [
    *(replace(a, baseline_joules=4.0) for a in took(answers("none", 6, 4, thinking=0), 1.0)),
    *(replace(a, baseline_joules=4.0) for a in took(answers("high", 10, 0, thinking=45), 5.0)),
]
ROWS = rows_of(FOUND, ["none", "high"], Pricing(COSTS))
PRICES = [
    Price(model=f"api-{n}", kind="worker", input=1000.0, output=n, since=datetime.date(2026, 1, n))
    for n in range(1, 9)
]


def high():
    own = own_task([a for a in FOUND if a.effort == "high"], COSTS)
    assert own is not None
    return own


def test_a_task_on_this_machine_is_its_time_and_what_it_takes_beyond_idling():
    own = high()
    assert own.tokens.output == 50
    assert own.task.seconds == 5.0
    assert own.task.electricity == pytest.approx(6.0 / 3.6e6 * 0.36)
    assert own.task.idle_month == pytest.approx(0.8 * SECONDS_PER_MONTH / 3.6e6 * 0.36)


def test_a_server_that_does_not_tell_has_no_task_of_its_own():
    assert own_task(answers("none", 3, 0), COSTS) is None
    assert own_task([], COSTS) is None


def test_every_effort_is_a_row_and_a_dot():
    section = efforts_section(ROWS, FOUND, "EUR")
    head, none, hard = section.table
    assert "EUR per 1,000 accepted" in head
    assert (none[0], none[1], hard[0], hard[1]) == ("none", "60.0 %", "high", "100.0 %")
    assert none[-2:] == ["5", "2"], "5 tokens in a second, and 10 joules for them"
    (plot,) = section.plots
    points = {series.label: series.points[0] for series in plot.series}
    assert points["high"][1] == 100.0
    assert points["none"][0] == pytest.approx(float(none[2]), rel=1e-3)


def test_effort_without_any_right_answer_has_no_price():
    wrong = took(answers("low", 0, 3), 1.0)
    section = efforts_section(rows_of(wrong, ["low"], Pricing(COSTS)), wrong, "EUR")
    assert section.table[1][:3] == ["low", "0.0 %", "-"]
    assert not section.plots[0].series


def test_break_even_is_told_for_each_api():
    own = high()
    section = break_even_section(ROWS[1], own, COSTS, PRICES)
    assert len(section.table) == 1 + len(PRICES)
    first = section.table[1]
    assert first[:3] == ["api-1", "worker", "2026-01-01"]
    saved = 5050 / 1e6 - own.task.electricity
    assert first[4] == f"{(100 + own.task.idle_month) / saved:,.0f} a month"
    (plot,) = section.plots
    assert plot.series[0].label == "here"
    ends = [series.points[-1] for series in plot.series]
    assert all(x > 0 and y > 0 for x, y in ends)


def test_an_api_cheaper_than_electricity_is_never_beaten():
    free = PRICES[0].model_copy(update={"input": 0.0, "output": 0.0})
    section = break_even_section(ROWS[1], high(), COSTS, [free])
    assert section.table[1][4:] == ["never", "-"]


def test_more_than_one_machine_can_do_is_never_cheaper():
    little = PRICES[0].model_copy(update={"input": 1.0})
    section = break_even_section(ROWS[1], high(), COSTS, [little])
    assert section.table[1][4] == "never"
    assert section.table[1][5].endswith(" %")


def test_what_it_rests_on_is_said():
    rows = basis_section(COSTS, FOUND, "costs.yaml").table[1:]
    table = {row[0]: row[1] for row in rows}
    assert table["cost file"] == "costs.yaml"
    assert table["energy"] == "RAPL"
    unknown = basis_section(COSTS, [replace(FOUND[0], unknown_seconds=2.0)], "x").table
    assert unknown[-1] == ["energy unknown for", "2.0 s of machine time"]
