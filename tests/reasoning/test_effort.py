from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_worker.errors import ContextLengthError, InvalidParameterError
from local_worker.reasoning.effort import (
    DEFAULT_LADDER,
    LEVELS,
    Allotment,
    EffortChoice,
    EffortPolicy,
    EffortRequest,
    Room,
    allot,
    choose,
    settle,
)

DEMO = {"none": 0, "minimal": 16, "low": 32, "medium": 96, "high": 256}
POLICY = EffortPolicy(True, DEMO, model_default="high", closer_length=3, answer_allowance=128)


def policy(**changes):
    return replace(POLICY, **changes)


@pytest.mark.parametrize(
    ("request_", "policy_", "expected"),
    [
        (EffortRequest(), POLICY, EffortChoice("high", "model", 256)),
        (EffortRequest(), policy(server_default="low"), EffortChoice("low", "server", 32)),
        (EffortRequest(), policy(model_default="auto"), EffortChoice("medium", "model", 96)),
        (EffortRequest(), policy(model_default="auto", auto=True),
         EffortChoice("auto", "model", None)),
        (EffortRequest(enable_thinking=True), policy(model_default="auto", auto=True),
         EffortChoice("medium", "model", 96)),
        (EffortRequest(effort="auto"), policy(auto=True),
         EffortChoice("auto", "request_effort", None)),
        (EffortRequest(effort="auto", budget=90), policy(auto=True),
         EffortChoice("medium", "request_budget", 90)),
        (EffortRequest(effort="auto"), policy(can_think=False), EffortChoice("none", "model", 0)),
        (EffortRequest(effort="none"), POLICY, EffortChoice("none", "request_effort", 0)),
        (EffortRequest(effort="low"), POLICY, EffortChoice("low", "request_effort", 32)),
        (EffortRequest(effort="max"), POLICY, EffortChoice("max", "request_effort", None)),
        (EffortRequest(effort="low", budget=90), POLICY,
         EffortChoice("medium", "request_budget", 90)),
        (EffortRequest(budget=0), POLICY, EffortChoice("none", "request_budget", 0)),
        (EffortRequest(budget=-1), POLICY, EffortChoice("max", "request_budget", None)),
        (EffortRequest(budget=-1), policy(ceiling=5), EffortChoice("max", "request_budget", None)),
        (EffortRequest(enable_thinking=False), POLICY, EffortChoice("none", "request_effort", 0)),
        (EffortRequest(enable_thinking=True), policy(model_default="none"),
         EffortChoice("medium", "model", 96)),
        (EffortRequest(), policy(can_think=False), EffortChoice("none", "model", 0)),
        (EffortRequest(effort="none"), policy(can_think=False), EffortChoice("none", "model", 0)),
    ],
)  # fmt: skip
def test_precedence(request_, policy_, expected):
    assert choose(request_, policy_) == expected


def test_what_auto_comes_to_is_a_level_like_any_other():
    auto = choose(EffortRequest(effort="auto"), policy(auto=True))
    assert settle(auto, "low", POLICY) == EffortChoice("low", "request_effort", 32)
    assert settle(auto, "none", POLICY) == EffortChoice("none", "request_effort", 0)


@pytest.mark.parametrize(
    ("request_", "policy_", "param", "words"),
    [
        (EffortRequest(effort="auto"), POLICY, "reasoning_effort", "cannot be had"),
        (EffortRequest(effort="hgih"), POLICY, "reasoning_effort", ", ".join(LEVELS)),
        (EffortRequest(effort="", effort_field="reasoning.effort"), POLICY, "reasoning.effort",
         "unknown effort ''"),
        (EffortRequest(budget=-2, budget_field="thinking_budget"), POLICY, "thinking_budget",
         "no thinking budget"),
        (EffortRequest(budget=101), policy(ceiling=100), "reasoning_budget_tokens", "ceiling"),
        (EffortRequest(effort="low", enable_thinking=False), POLICY, "reasoning_effort",
         "one of the two"),
        (EffortRequest(budget=5), policy(can_think=False), "reasoning_budget_tokens",
         "does not think"),
        (EffortRequest(enable_thinking=True), policy(can_think=False), "enable_thinking",
         "does not think"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(request_, policy_, param, words):
    with pytest.raises(InvalidParameterError, match=words) as caught:
        choose(request_, policy_)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("budget", "policy_", "room", "expected"),
    [
        # No max_tokens: budget, closer and the answer allowance.
        (96, POLICY, Room(100, 4096), Allotment(96, 96 + 3 + 128)),
        (256, POLICY, Room(100, 4096), Allotment(256, 256 + 3 + 128)),
        (0, POLICY, Room(100, 4096), Allotment(0, 128)),
        # No bound at all: what the context has left, less the answer floor and the closer.
        (None, POLICY, Room(96, 4096), Allotment(4000 - 128 - 3, 4000)),
        (None, policy(ceiling=50), Room(96, 4096), Allotment(50, 50 + 3 + 128)),
        (256, policy(ceiling=50), Room(96, 4096), Allotment(50, 50 + 3 + 128)),
        # A small max_tokens: half of it stays the answer's.
        (256, POLICY, Room(100, 4096, 100), Allotment(47, 100)),
        (256, POLICY, Room(100, 4096, 6), Allotment(0, 6)),
        (256, POLICY, Room(100, 4096, 1), Allotment(0, 1)),
        # A context that is nearly full.
        (256, POLICY, Room(4000, 4096), Allotment(45, 96)),
        (16384, policy(ladder=DEFAULT_LADDER, answer_allowance=4096), Room(100, 262144, 20000),
         Allotment(16384, 20000)),
        (16384, POLICY, Room(100, 262144, 16384), Allotment(16384 - 1024 - 3, 16384)),
    ],
)  # fmt: skip
def test_arithmetic(budget, policy_, room, expected):
    assert allot(EffortChoice("x", "model", budget), policy_, room) == expected


@pytest.mark.parametrize(
    ("room", "param"),
    [(Room(4096, 4096), "messages"), (Room(10, 4096, 4087), "max_completion_tokens")],
)
def test_what_does_not_fit_is_refused(room, param):
    with pytest.raises(ContextLengthError) as caught:
        allot(EffortChoice("none", "model", 0), POLICY, room)
    assert caught.value.param == param


@given(
    budget=st.one_of(st.none(), st.integers(0, 10**6)),
    ceiling=st.one_of(st.none(), st.integers(0, 10**5)),
    prompt=st.integers(1, 5000),
    max_tokens=st.one_of(st.none(), st.integers(1, 5000)),
)
def test_thought_closer_and_answer_always_fit(budget, ceiling, prompt, max_tokens):
    room = Room(prompt, 8192, max_tokens)
    if prompt + (max_tokens or 1) > 8192:
        return
    allotment = allot(EffortChoice("x", "model", budget), policy(ceiling=ceiling), room)
    assert 1 <= allotment.max_tokens <= room.left
    assert allotment.budget == 0 or allotment.budget + 3 < allotment.max_tokens
    assert ceiling is None or allotment.budget <= ceiling
    assert budget is None or allotment.budget <= budget
