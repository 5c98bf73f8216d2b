from __future__ import annotations

import pytest

from local_worker.economics.costs import (
    SECONDS_PER_YEAR,
    Costs,
    Electricity,
    Hardware,
    Outputs,
    Review,
    default_text,
    load_costs,
)
from local_worker.economics.energy import Share
from local_worker.errors import ConfigError

MACHINE = Hardware(price=4000.0, lifetime_years=4.0, utilisation=0.5, upkeep_per_year=1000.0)
COSTS = Costs(hardware=MACHINE, electricity=Electricity(price_per_kwh=0.36, overhead=1.5))


def test_hardware_is_paid_for_by_the_seconds_in_which_it_computes():
    cost = COSTS.of_share(Share(seconds=SECONDS_PER_YEAR / 2))
    assert cost.hardware == pytest.approx(2000.0), "half a year at work pays for a year"
    assert cost.electricity == 0.0
    assert cost.idle_electricity == 0.0


def test_energy_has_its_price_with_what_cooling_takes():
    cost = COSTS.of_share(Share(joules=3.6e6))
    assert cost.electricity == pytest.approx(0.36 * 1.5)


def test_what_idles_is_paid_for_too():
    share = Share(seconds=4000.0, joules=0.0, baseline=3.6e6, unknown=400.0)
    cost = Costs(hardware=MACHINE, electricity=COSTS.electricity).of_share(share)
    assert cost.idle_electricity == pytest.approx(0.6), "a second of idling for each at work"
    assert cost.total == cost.hardware + cost.idle_electricity


def test_accepted_outputs_pay_for_all_of_them():
    costs = Costs(
        review=Review(share=0.1, minutes=3.0, wage_per_hour=40.0),
        failure_cost=2.0,
        retry_cost=0.5,
        tool_cost=0.01,
    )
    cost = costs.of_outputs(1.0, Outputs(outputs=100, accepted=80, retries=4))
    assert cost.parts == pytest.approx(
        {"machine": 1.0, "tools": 1.0, "retries": 2.0, "review": 20.0, "failures": 40.0}
    )
    assert cost.total == pytest.approx(64.0)
    assert cost.per_output == pytest.approx(0.64)
    assert cost.per_accepted == pytest.approx(0.8)


def test_where_nothing_is_accepted_there_is_no_price():
    cost = Costs().of_outputs(1.0, Outputs(10, 0))
    assert cost.per_output == pytest.approx(0.1)
    assert cost.per_accepted is None
    assert Costs().of_outputs(0.0, Outputs(0, 0)).per_output is None


def test_the_shipped_file_says_what_the_defaults_are():
    assert load_costs(None) == Costs()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("price: 2000", "price: -1", "costs.yaml, line 8: hardware.price: Input should be greater"),
        ("utilisation: 0.25", "utilisation: 0", "line 10: hardware.utilisation"),
        ("utilisation: 0.25", "utilisation: 25", "line 10: hardware.utilisation"),
        ("lifetime_years: 4", "lifetime_years: .inf", "line 9: hardware.lifetime_years"),
        ("price_per_kwh: 0.30", "price_per_kwh: '0.30'", "line 14: electricity.price_per_kwh"),
        ("wage_per_hour", "wage", "line 20: review.wage: Extra inputs"),
        ("failure_cost: 0.0", "failure_cost: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path, old, new, words):
    text = default_text().replace(old, new, 1)
    assert text != default_text()
    path = tmp_path / "costs.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_costs(path)
    assert words in str(refused.value)


def test_a_file_need_not_say_everything(tmp_path):
    path = tmp_path / "costs.yaml"
    path.write_text("currency: EUR\none_usd: 0.9\nhardware: {price: 500}\n")
    costs = load_costs(path)
    assert (costs.currency, costs.hardware) == ("EUR", Hardware(price=500.0))


def test_another_currency_needs_its_rate(tmp_path):
    path = tmp_path / "costs.yaml"
    path.write_text("currency: EUR\n")
    with pytest.raises(ConfigError, match="`one_usd` is missing"):
        load_costs(path)
