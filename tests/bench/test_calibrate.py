from __future__ import annotations

import pytest
import yaml

from local_worker.bench.calibrate import EARLY, WHOLE, as_yaml, budgets_to_try, calibrated
from local_worker.rules import Calibration
from tests.bench.test_verdicts import answers, rows_of

LADDER = {"none": 0, "minimal": 16, "low": 32, "medium": 96, "high": 256, "xhigh": 512}


def rows(right_by_budget, **auto):
    """Of 100 tasks each."""
    found = []
    for budget, right in right_by_budget.items():
        found += answers(str(budget), right, 100 - right, thinking=budget)
    for name, (right, thinking) in auto.items():
        effort = {"early": EARLY, "whole": WHOLE}[name]
        found += answers(effort, right, 100 - right, thinking=thinking)
    return rows_of(found, [*map(str, right_by_budget), EARLY, WHOLE])


RIGHT = {0: 50, 8: 50, 16: 60, 23: 70, 32: 70, 55: 80, 96: 90, 157: 98, 256: 98, 362: 98, 512: 98}


def test_between_two_levels_one_more_budget_is_tried():
    assert budgets_to_try(LADDER) == list(RIGHT)
    assert budgets_to_try({"none": 0}) == [0]


def test_a_level_gets_the_smallest_budget_that_is_as_good():
    assert calibrated(rows(RIGHT), LADDER).effort == {
        "none": 0, "minimal": 16, "low": 23, "medium": 96, "high": 157, "xhigh": 157,
    }  # fmt: skip


def test_a_level_is_never_worth_less_than_the_one_below():
    """Where more thinking makes it worse, the level above keeps what the one below has."""
    worse = {**RIGHT, 256: 80, 362: 80, 512: 80}
    effort = calibrated(rows(worse), LADDER).effort
    assert effort["high"] == 96
    assert list(effort.values()) == sorted(effort.values())


@pytest.mark.parametrize(
    ("early", "whole", "pays"),
    [((98, 20), (98, 30), True), ((96, 20), (98, 30), False), ((98, 30), (98, 30), False)],
)
def test_early_exit_pays_where_it_is_as_good_and_takes_less(early, whole, pays):
    assert calibrated(rows(RIGHT, early=early, whole=whole), LADDER).early_exit is pays


def test_what_was_not_measured_is_left_open():
    assert calibrated(rows(RIGHT), LADDER).early_exit is None


def test_the_file_is_what_serve_reads():
    found = calibrated(rows(RIGHT, early=(98, 20), whole=(98, 30)), LADDER)
    text = as_yaml(found, "demo", "measured today")
    assert "# measured today" in text
    assert "70.0 % right" in text
    read = Calibration.model_validate(yaml.safe_load(text))
    assert read.model == "demo"
    assert read.effort["low"] == 23
    assert read.early_exit is True
