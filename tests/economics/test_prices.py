from __future__ import annotations

import datetime

import pytest

from local_worker.economics.costs import Costs, Hardware
from local_worker.economics.prices import (
    SECONDS_PER_MONTH,
    OwnTask,
    Price,
    Tokens,
    break_even,
    current,
    default_text,
    load_prices,
)
from local_worker.errors import ConfigError

API = Price(
    model="api", kind="worker", input=1.0, cached=0.1, output=5.0, since=datetime.date(2026, 1, 1)
)
MACHINE = Hardware(price=2400.0, lifetime_years=2.0, utilisation=0.5, upkeep_per_year=0.0)


def test_tokens_have_their_prices():
    assert API.of(Tokens(prompt=1e6, cached=4e5, output=2e5)) == pytest.approx(0.6 + 0.04 + 1.0)
    fresh = API.model_copy(update={"cached": None})
    assert fresh.of(Tokens(1e6, 4e5, 0)) == pytest.approx(1.0)


def test_the_machine_pays_from_the_volume_at_which_the_api_would_have_taken_more():
    tokens = Tokens(prompt=1000, cached=0, output=200)  # 0.002 dollars
    own = OwnTask(seconds=2.0, electricity=0.0005, idle_month=5.0)
    found = break_even(API, tokens, own, Costs(hardware=MACHINE))
    assert found.task == pytest.approx(0.002)
    assert found.tasks_per_month == pytest.approx((100 + 5) / 0.0015)
    assert found.share == pytest.approx(70000 * 2 / SECONDS_PER_MONTH)


def test_prices_in_dollars_are_compared_in_the_own_currency():
    costs = Costs(currency="EUR", one_usd=0.5, hardware=MACHINE)
    found = break_even(API, Tokens(1000, 0, 200), OwnTask(2.0, 0.0, 0.0), costs)
    assert found.task == pytest.approx(0.001)


def test_electricity_alone_may_be_dearer():
    own = OwnTask(seconds=2.0, electricity=0.003, idle_month=0.0)
    found = break_even(API, Tokens(1000, 0, 200), own, Costs(hardware=MACHINE))
    assert found.tasks_per_month is None
    assert found.share is None


def test_more_tasks_than_the_machine_can_do_are_no_break_even():
    own = OwnTask(seconds=100.0, electricity=0.0, idle_month=0.0)
    found = break_even(API, Tokens(1000, 0, 200), own, Costs(hardware=MACHINE))
    assert found.tasks_per_month is None
    assert found.share == pytest.approx(50000 * 100 / SECONDS_PER_MONTH)


def test_only_prices_that_hold_today_count():
    day = datetime.date(2026, 12, 31)
    ending = API.model_copy(update={"until": day})
    coming = API.model_copy(update={"since": datetime.date(2027, 1, 1)})
    assert current([ending, coming], day) == (ending,)
    assert current([ending, coming], datetime.date(2027, 1, 1)) == (coming,)


def test_the_shipped_list_has_all_kinds_and_a_date_for_each():
    prices = load_prices(None)
    assert {price.kind for price in prices} == {"frontier", "worker", "open"}
    assert all(price.since.year == 2026 and price.source for price in prices)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("input: 2.0", "input: -2.0", "prices.yaml, line 8: prices.0.input"),
        ("  kind: frontier", "  kind: best", "line 7: prices.0.kind"),
        ("since: 2026-09-29", "since: soon", "line 11: prices.0.since"),
        ("since: 2026-09-29", "since: 2026-13-29", "not valid YAML"),
        ("GPT-6 Luna", "GPT-6.1 Sol", "'GPT-6.1 Sol' is there twice"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(tmp_path, old, new, words):
    path = tmp_path / "prices.yaml"
    path.write_text(default_text().replace(old, new, 1))
    with pytest.raises(ConfigError) as refused:
        load_prices(path)
    assert words in str(refused.value)
