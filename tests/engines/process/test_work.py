from __future__ import annotations

import pytest

from local_worker.engines.process.work import REPORT_SECONDS, Part, TokenCosts, Work


def test_a_steps_seconds_are_shared_out_by_what_its_tokens_cost():
    work = Work()
    work.add([Part("a", 0, 1), Part("b", 30, 0)], 1.0, prompt_cost=0.01, output_cost=0.1)
    assert dict(work.report(0.0, urgent=True)) == pytest.approx({"a": 0.25, "b": 0.75})


def test_the_shares_of_several_steps_add_up_to_their_seconds():
    work = Work()
    work.add([Part("a", 10, 0), Part("b", 90, 0)], 1.0, None, None)
    work.add([Part("a", 0, 1), Part("b", 0, 1)], 0.5, 0.01, None)
    work.add([Part("b", 0, 3), Part("c", 40, 0)], 0.5, 0.01, 0.2)
    shares = dict(work.report(0.0, urgent=True))
    assert sum(shares.values()) == pytest.approx(2.0)
    assert shares["a"] == pytest.approx(0.1 + 0.25)
    assert shares["c"] == pytest.approx(0.5 * 0.4 / 1.0)


def test_a_report_waits_until_it_is_due_or_urgent():
    work = Work()
    work.add([Part("a", 0, 1)], 0.01, None, None)
    assert work.report(REPORT_SECONDS / 2, urgent=False) == ()
    assert work.report(REPORT_SECONDS / 2, urgent=True) == (("a", 0.01),)
    work.add([Part("a", 0, 1)], 0.01, None, None)
    assert work.report(REPORT_SECONDS, urgent=False) == ()
    assert work.report(1.6 * REPORT_SECONDS, urgent=False) == (("a", 0.01),)
    assert work.report(9.0, urgent=True) == ()


def test_a_step_of_nobody_is_nobodys():
    work = Work()
    work.add([], 1.0, None, None)
    work.add([Part("a", 0, 0)], 1.0, None, None)
    assert work.report(9.0, urgent=True) == ()


def test_costs_of_tokens_are_learnt_from_what_came_out():
    costs = TokenCosts()
    costs.observe(0, 4, 0.4)
    assert costs.output == pytest.approx(0.1)
    assert costs.prompt is None
    costs.observe(100, 1, 1.1)
    assert costs.prompt == pytest.approx(0.01)
    costs.observe(0, 0, 5.0)
    assert costs.output == pytest.approx(0.1)


def test_a_prompt_costs_something_however_dear_the_outputs_beside_it():
    costs = TokenCosts()
    costs.observe(0, 1, 1.0)
    costs.observe(10, 4, 1.0)
    assert costs.prompt == pytest.approx(0.025)
