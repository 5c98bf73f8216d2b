from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from local_worker.bench.finance import FAMILIES, draw, rounded
from local_worker.bench.suite import load_suite

BY_HAND = {
    "ratio": ("Elm Ltd has cash of 333,000, receivables", "1.69"),
    "growth": ("Sales of 3 years in a row were 564,000, ", "-0.0"),
    "margin": ("Sales are 4,195,000, cost of goods sold ", "9.10"),
    "loan": ("A loan of 297,000 is repaid in 6 equal y", "56925.00"),
    "annuity": ("A loan of 234,000 bears 3 % interest a y", "187698.32"),
    "depreciation": ("A machine costs 102,000 and is depreciat", "67957.50"),
    "break-even": ("A product sells at 93, its variable cost", "728"),
    "variance": ("The budget was 795 units at 2 hours each", "-1073"),
    "currency": ("One SEK is worth 0.2182 EUR and one CHF ", "19120.53"),
    "plan": ("A team of 7 earns 46,000 each a year. At", "347944.00"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_what_a_calculator_gives(family):
    """The first question of each family, worked through by hand from its text."""
    (question,) = draw(family, 7, 1)
    assert (question.text[:40], str(question.answer)) == BY_HAND[family]


def test_the_same_seed_gives_the_same_questions_and_another_one_others():
    for family in FAMILIES:
        assert draw(family, 1, 5) == draw(family, 1, 5)
        assert draw(family, 1, 5) != draw(family, 2, 5)
        assert len({question.text for question in draw(family, 1, 20)}) == 20


@pytest.mark.parametrize(
    ("value", "places", "expected"),
    [
        (Fraction(1, 8), 2, "0.13"),
        (Fraction(-1, 8), 2, "-0.13"),
        (Fraction(1, 3), 2, "0.33"),
        (Fraction(5, 2), 0, "3"),
    ],
)
def test_halves_are_rounded_away_from_zero(value, places, expected):
    assert rounded(value, places) == Decimal(expected)


def test_the_shipped_suite_has_a_hundred_tasks_and_takes_its_own_answers():
    suite = load_suite("finance")
    assert len(suite.tasks) == 100
    answers = [q.answer for family in FAMILIES for q in draw(family, 7, 10)]
    for task, answer in zip(suite.tasks, answers, strict=True):
        assert task.accepts(f"The result is {answer:,}."), (task.messages, answer)
        assert not task.accepts(f"The result is {answer + 1:,}.")
        assert not task.accepts("I do not know.")
