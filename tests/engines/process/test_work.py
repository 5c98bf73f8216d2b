from __future__ import annotations

import pytest

from local_worker.engines.process.work import REPORT_SECONDS, OutputCost, Part, Work, split


def test_a_steps_seconds_are_shared_out_by_what_its_tokens_cost():
    shares = split([Part("a", 0, 1), Part("b", 30, 0)], 1.0, prompt_cost=0.01, output_cost=0.1)
    assert dict(shares) == pytest.approx({"a": 0.25, "b": 0.75})


def test_the_shares_of_several_steps_add_up_to_their_seconds():
    work = Work()
    work.add(split([Part("a", 10, 0), Part("b", 90, 0)], 1.0, None, None))
    work.add(split([Part("a", 0, 1), Part("b", 0, 1)], 0.5, 0.01, None))
    work.add(split([Part("b", 0, 3), Part("c", 40, 0)], 0.5, 0.01, 0.2))
    shares = dict(work.report(0.0, urgent=True))
    assert sum(shares.values()) == pytest.approx(2.0)
    assert shares["a"] == pytest.approx(0.1 + 0.25)
    assert shares["c"] == pytest.approx(0.5 * 0.4 / 1.0)


def test_a_report_waits_until_it_is_due_or_urgent():
    work = Work()
    work.add([("a", 0.01)])
    assert work.report(REPORT_SECONDS / 2, urgent=False) == ()
    assert work.report(REPORT_SECONDS / 2, urgent=True) == (("a", 0.01),)
    work.add([("a", 0.01)])
    assert work.report(REPORT_SECONDS, urgent=False) == ()
    assert work.report(1.6 * REPORT_SECONDS, urgent=False) == (("a", 0.01),)
    assert work.report(9.0, urgent=True) == ()


def test_a_step_of_nobody_is_nobodys():
    assert split([], 1.0, None, None) == []
    assert split([Part("a", 0, 0)], 1.0, None, None) == []


def test_a_long_prompt_pays_for_the_steps_that_it_slows_down():
    """Sixteen steps in which a stream gets a token each and a prompt is computed beside it."""
    cost = OutputCost()
    for _ in range(10):
        assert cost.split({"a": 1}, {}, 0.02) == [("a", 0.02)]
    shares = {"a": 0.0, "b": 0.0}
    for _ in range(16):
        for request_id, seconds in cost.split({"a": 1}, {"b": 32768}, 0.4):
            shares[request_id] += seconds
    assert shares["a"] == pytest.approx(0.32)
    assert shares["b"] == pytest.approx(6.08)


def test_before_outputs_are_known_tokens_count_alike():
    assert dict(OutputCost().split({"a": 1}, {"b": 9}, 1.0)) == pytest.approx({"a": 0.1, "b": 0.9})


def test_outputs_never_take_more_than_there_was():
    cost = OutputCost()
    cost.split({"a": 1}, {}, 1.0)
    assert dict(cost.split({"a": 4}, {"b": 10}, 0.5)) == {"a": 0.5, "b": 0.0}
