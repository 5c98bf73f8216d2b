from __future__ import annotations

import random

import pytest

from local_worker.economics.energy import Meter, Reading, Share

A, B = "a", "b"


def metered(*readings):
    meter = Meter()
    for at, joules in readings:
        meter.advance(Reading(at, None if joules is None else (joules,)))
    return meter


def adds_up(meter):
    totals = meter.totals
    return totals.measured == pytest.approx(totals.attributed + totals.other + totals.idle)


def test_energy_is_shared_out_by_seconds_of_computing():
    meter = metered((0.0, 100.0), (1.0, 140.0))
    shares = meter.settle({A: 0.6, B: 0.2}, busy=1.0, known={A, B})
    assert shares[A].seconds == pytest.approx(0.75)
    assert shares[A].joules == pytest.approx(30.0)
    assert shares[B].joules == pytest.approx(10.0)
    assert adds_up(meter)


def test_what_the_server_computes_for_itself_is_no_requests():
    meter = metered((0.0, 0.0), (1.0, 40.0))
    shares = meter.settle({A: 0.5, "self-test": 0.5}, busy=1.0, known={A})
    assert set(shares) == {A}
    assert shares[A].joules == pytest.approx(20.0)
    assert meter.totals.other == pytest.approx(20.0)
    assert adds_up(meter)


def test_idling_is_nobodys_and_gives_the_baseline():
    meter = metered((0.0, 0.0), (2.0, 20.0))
    assert meter.settle({}, busy=0.0, known=set()) == {}
    assert meter.idle_watts == pytest.approx(10.0)
    meter.advance(Reading(3.0, (70.0,)))
    shares = meter.settle({A: 0.4}, busy=0.5, known={A})
    assert meter.totals.idle == pytest.approx(20.0 + 5.0), "half a second at the baseline"
    assert shares[A].joules == pytest.approx(45.0)
    assert shares[A].baseline == pytest.approx(5.0)
    assert shares[A].seconds == pytest.approx(0.5)
    assert adds_up(meter)


def test_without_a_baseline_idling_counts_in_proportion():
    meter = metered((0.0, 0.0), (1.0, 40.0))
    shares = meter.settle({A: 0.2}, busy=0.25, known={A})
    assert shares[A].joules == pytest.approx(10.0)
    assert shares[A].baseline == 0.0
    assert meter.idle_watts is None
    assert adds_up(meter)


def test_the_baseline_never_takes_more_than_there_is():
    meter = metered((0.0, 0.0), (1.0, 50.0))
    meter.settle({}, busy=0.0, known=set())
    meter.advance(Reading(2.0, (60.0,)))  # less than when idling
    shares = meter.settle({A: 0.1}, busy=0.5, known={A})
    assert shares[A].joules == pytest.approx(5.0)
    assert shares[A].baseline == pytest.approx(5.0)
    assert adds_up(meter)


def test_the_baseline_follows_slowly():
    meter = metered((0.0, 0.0), (60.0, 600.0))
    meter.settle({}, busy=0.0, known=set())
    meter.advance(Reading(66.0, (720.0,)))
    meter.settle({}, busy=0.0, known=set())
    assert meter.idle_watts == pytest.approx(11.0), "a tenth of the way to 20 W"


def test_waiting_for_a_long_step_is_no_idling():
    meter = metered((0.0, 0.0), (1.0, 40.0))
    meter.settle({}, busy=1.0, known=set())
    assert meter.idle_watts is None


@pytest.mark.parametrize(
    ("readings", "seconds"),
    [
        (((0.0, 900.0), (1.0, 20.0)), 1.0),  # a counter wrapped, or its device was reset
        (((0.0, 900.0), (1.0, None)), 1.0),
        (((0.0, None), (1.0, 900.0)), 1.0),
        (((5.0, 900.0), (4.0, 910.0)), 0.0),  # the clock went back
    ],
)
def test_what_cannot_be_known_is_unknown_and_not_guessed(readings, seconds):
    meter = metered(*readings)
    shares = meter.settle({A: 0.5, B: 0.5}, busy=1.0, known={A, B})
    assert shares[A] == Share(seconds=seconds / 2, unknown=seconds / 2)
    assert meter.totals.unknown == seconds
    assert meter.totals.measured == 0.0


def test_after_an_unknown_interval_it_goes_on():
    meter = metered((0.0, 900.0), (1.0, 20.0), (2.0, 50.0))
    shares = meter.settle({A: 2.0}, busy=2.0, known={A})
    assert shares[A] == Share(2.0, 30.0, 0.0, 1.0)
    assert adds_up(meter)


def test_a_device_that_comes_or_goes_makes_the_interval_unknown():
    meter = Meter()
    meter.advance(Reading(0.0, (1.0, 2.0)))
    meter.advance(Reading(1.0, (3.0,)))
    assert meter.totals.unknown == 1.0


def test_one_device_of_two_that_was_reset_makes_it_unknown():
    meter = Meter()
    meter.advance(Reading(0.0, (1.0, 200.0)))
    meter.advance(Reading(1.0, (30.0, 2.0)))
    assert meter.totals.measured == 0.0
    assert meter.totals.unknown == 1.0


def test_more_work_than_time_is_squeezed_into_it():
    """Both are measured, by two processes and not at the same moment."""
    meter = metered((0.0, 0.0), (1.0, 40.0))
    shares = meter.settle({A: 1.2}, busy=0.9, known={A})
    assert shares[A].joules == pytest.approx(40.0)
    assert shares[A].seconds == pytest.approx(1.0)


def test_the_sum_holds_under_mixed_load():
    rng = random.Random(7)
    meter, at, joules, given = Meter(), 0.0, 0.0, 0.0
    meter.advance(Reading(at, (joules,)))
    for number in range(2000):
        for _ in range(rng.randrange(1, 4)):
            at += rng.uniform(0.0, 0.4)
            joules += rng.uniform(0.0, 60.0)
            meter.advance(Reading(at, (joules,)))
        names = rng.sample(["a", "b", "c", "self", "pin"], rng.randrange(0, 5))
        work = {name: rng.uniform(0.001, 0.2) for name in names}
        shares = meter.settle(work, busy=rng.uniform(0.0, 1.0), known={"a", "b", "c"})
        given += sum(share.joules for share in shares.values())
        if number % 100 == 0:
            assert adds_up(meter)
    assert meter.totals.measured == pytest.approx(joules)
    assert meter.totals.attributed == pytest.approx(given)
    assert adds_up(meter)
