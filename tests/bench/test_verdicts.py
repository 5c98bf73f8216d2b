from __future__ import annotations

import pytest

from local_worker.bench.verdicts import (
    Answered,
    Saving,
    against,
    cheapest,
    rows_of,
    saving,
    wilson,
)


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
