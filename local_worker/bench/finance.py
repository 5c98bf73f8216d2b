"""Financial-analysis tasks with exact answers, drawn from a seed, for models of real size. Pure.

Each family states the figures, how to round, and asks for one number; the answer is computed with
exact fractions. Interest schedules round every step to cents where the text says so, as a ledger
does.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

COMPANIES = (
    "Alder",
    "Birch",
    "Cedar",
    "Dogwood",
    "Elm",
    "Fir",
    "Hazel",
    "Juniper",
    "Larch",
    "Maple",
)
CURRENCIES = ("USD", "GBP", "CHF", "SEK", "NOK", "PLN")


@dataclass(frozen=True, slots=True)
class Question:
    """One task.

    Attributes:
        text: with the figures in it, and how to round.
        answer: the number, rounded so.
    """

    text: str
    answer: Decimal


def rounded(value: Fraction, places: int) -> Decimal:
    """Half up, as accountants do."""
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return exact.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)


def _cents(value: Fraction) -> Fraction:
    return Fraction(rounded(value, 2))


def _thousands(rng: Random, low: int, high: int) -> int:
    return rng.randrange(low, high) * 1000


def _ratio(rng: Random) -> Question:
    company = rng.choice(COMPANIES)
    cash, receivables, inventory = (_thousands(rng, 20, 400) for _ in range(3))
    payables, loans = _thousands(rng, 50, 300), _thousands(rng, 10, 200)
    quick = rng.choice((True, False))
    assets = cash + receivables + (0 if quick else inventory)
    name = (
        "quick ratio (current assets without inventory, by current liabilities)"
        if quick
        else ("current ratio (current assets by current liabilities)")
    )
    text = (
        f"{company} Ltd has cash of {cash:,}, receivables of {receivables:,}, inventory of "
        f"{inventory:,}, trade payables of {payables:,} and short-term loans of {loans:,}, and no "
        f"other current items. What is its {name}? Round to two decimals."
    )
    return Question(text, rounded(Fraction(assets, payables + loans), 2))


def _growth(rng: Random) -> Question:
    years = rng.randint(2, 4)
    sales = [_thousands(rng, 400, 900)]
    for _ in range(years):
        sales.append(sales[-1] * rng.randrange(85, 131) // 100)
    listed = ", ".join(f"{figure:,}" for figure in sales)
    text = (
        f"Sales of {years + 1} years in a row were {listed}. By how many per cent did they "
        "grow from "
        "the first year to the last? Round to one decimal; a fall is negative."
    )
    return Question(text, rounded(Fraction(sales[-1] - sales[0], sales[0]) * 100, 1))


def _margin(rng: Random) -> Question:
    sales = _thousands(rng, 500, 5000)
    goods = sales * rng.randrange(35, 70) // 100
    overhead, interest = sales * rng.randrange(8, 20) // 100, sales * rng.randrange(1, 4) // 100
    rate = rng.choice((20, 25, 30))
    profit = Fraction(sales - goods - overhead - interest) * (100 - rate) / 100
    text = (
        f"Sales are {sales:,}, cost of goods sold {goods:,}, operating expenses {overhead:,}, "
        "interest "
        f"{interest:,}, and tax is {rate} % of profit before tax. What is the net profit margin in "
        "per cent? Round to two decimals."
    )
    return Question(text, rounded(profit / sales * 100, 2))


def _loan(rng: Random) -> Question:
    principal, rate = _thousands(rng, 50, 400), rng.choice((3, 4, 5, 6, 7))
    years, asked = rng.randint(4, 8), rng.randint(2, 4)
    repayment = Fraction(principal, years)
    balance = principal - repayment * (asked - 1)
    text = (
        f"A loan of {principal:,} is repaid in {years} equal yearly instalments of principal; "
        "interest "
        f"is {rate} % a year on the balance at the beginning of the year, paid at its end. How "
        "much "
        f"is paid in total, principal and interest, at the end of year {asked}? Round to two "
        "decimals."
    )
    return Question(text, rounded(repayment + balance * rate / 100, 2))


def _annuity_balance(rng: Random) -> Question:
    balance = Fraction(_thousands(rng, 80, 300))
    rate, payment = rng.choice((3, 4, 5, 6)), Fraction(_thousands(rng, 18, 30))
    years, left = rng.randint(2, 4), balance
    for _ in range(years):
        left += _cents(left * rate / 100) - payment
    text = (
        f"A loan of {int(balance):,} bears {rate} % interest a year on the balance at the "
        "beginning "
        f"of the year, rounded to cents. At the end of each year {int(payment):,} is paid, "
        "interest "
        f"first. What is the balance after {years} payments? Give two decimals."
    )
    return Question(text, rounded(left, 2))


def _depreciation(rng: Random) -> Question:
    cost, years = _thousands(rng, 40, 300), rng.randint(4, 8)
    salvage = cost * rng.randrange(5, 15) // 100
    asked = rng.randint(2, years - 1)
    if rng.choice((True, False)):
        book = cost - Fraction(cost - salvage, years) * asked
        method = f"straight-line over {years} years to a residual value of {salvage:,}"
    else:
        rate, book = rng.choice((20, 25, 30)), Fraction(cost)
        for _ in range(asked):
            book -= _cents(book * rate / 100)
        method = f"by {rate} % of the book value a year, each year's amount rounded to cents"
    text = (
        f"A machine costs {cost:,} and is depreciated {method}. What is its book value after "
        f"{asked} "
        "years? Round to two decimals."
    )
    return Question(text, rounded(book, 2))


def _break_even(rng: Random) -> Question:
    price, fixed = rng.randrange(20, 120), _thousands(rng, 30, 300)
    variable = price * rng.randrange(35, 75) // 100
    target = rng.choice((0, _thousands(rng, 10, 60)))
    units = -(-(fixed + target) // (price - variable))
    goal = f"earn a profit of at least {target:,}" if target else "make no loss"
    text = (
        f"A product sells at {price}, its variable cost is {variable} a unit, and fixed costs are "
        f"{fixed:,} a year. How many whole units must be sold in a year to {goal}?"
    )
    return Question(text, Decimal(units))


def _variance(rng: Random) -> Question:
    planned, units = rng.randrange(400, 900), rng.randrange(400, 900)
    hours, rate = rng.randint(2, 5), rng.randrange(18, 40)
    spent, paid = units * hours + rng.randrange(-90, 120), rate + rng.choice((-2, -1, 1, 2))
    if rng.choice((True, False)):
        name, value = "labour rate variance", (paid - rate) * spent
    else:
        name, value = "labour efficiency variance", (spent - units * hours) * rate
    text = (
        f"The budget was {planned} units at {hours} hours each and {rate} an hour. {units} "
        "units were "
        f"made in {spent:,} hours, paid at {paid} an hour. What is the {name} for the units made? "
        "Unfavourable is positive, favourable negative."
    )
    return Question(text, Decimal(value))


def _currency(rng: Random) -> Question:
    first, second = rng.sample(CURRENCIES, 2)
    amount = _thousands(rng, 5, 90)
    one, other = (Fraction(rng.randrange(500, 12000), 10000) for _ in range(2))
    fee = Fraction(rng.choice((5, 10, 15, 25)), 1000)
    received = _cents(_cents(amount * one) * (1 - fee)) / other
    text = (
        f"One {first} is worth {float(one):.4f} EUR and one {second} {float(other):.4f} EUR. "
        f"{amount:,} {first} are changed into EUR, rounded to cents; a fee of "
        f"{float(fee) * 100:.1f} % "
        f"is taken off and what is left rounded to cents; the rest is changed into {second}. "
        "How many "
        f"{second} are received? Round to two decimals."
    )
    return Question(text, rounded(received, 2))


def _plan(rng: Random) -> Question:
    staff, salary = rng.randint(4, 12), rng.randrange(32, 60) * 1000
    raise_, charges = rng.randint(2, 5), rng.choice((18, 20, 22))
    leavers, joiners = rng.randint(1, 2), rng.randint(1, 3)
    months = rng.choice((3, 4, 6, 8, 9))
    whole = (staff - leavers) * Fraction(salary) * (100 + raise_) / 100
    new = joiners * Fraction(salary) * months / 12
    text = (
        f"A team of {staff} earns {salary:,} each a year. At the start of next year {leavers} "
        "leave and "
        f"the others get {raise_} % more; {joiners} join for the last {months} months of the "
        "year at "
        f"the old yearly salary. Social charges of {charges} % come on top of all salaries. "
        "What does "
        "the team cost next year? Round to two decimals."
    )
    return Question(text, rounded((whole + new) * (100 + charges) / 100, 2))


FAMILIES: dict[str, Callable[[Random], Question]] = {
    "ratio": _ratio,
    "growth": _growth,
    "margin": _margin,
    "loan": _loan,
    "annuity": _annuity_balance,
    "depreciation": _depreciation,
    "break-even": _break_even,
    "variance": _variance,
    "currency": _currency,
    "plan": _plan,
}


def draw(family: str, seed: int, count: int) -> list[Question]:
    """So many questions of a family; the same arguments give the same ones."""
    rng = Random(f"finance/{family}/{seed}")  # noqa: S311 - not a secret
    return [FAMILIES[family](rng) for _ in range(count)]
