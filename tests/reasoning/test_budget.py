from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_worker.reasoning.budget import (
    BudgetMachine,
    Kind,
    Phase,
    Token,
    missing_utf8_bytes,
    soft_landing_stretch,
)
from local_worker.types import ClosedBy, ThinkingParams, ThinkingTokens

# A toy vocabulary: 1..9 are delimiters, everything from 10 on is text.
QWEN = ThinkingTokens(
    start=(1,), end=(2,), close=(90, 2, 91), close_after_newline=(2, 91), tool_start=(3,),
    tool_end=(4,),
)  # fmt: skip
GEMMA = ThinkingTokens(
    start=(5, 6, 7), end=(8,), close=(8,), close_after_newline=(8,), tool_start=(9,), tool_end=(4,)
)
PIECES = {1: b"<think>", 2: b"</think>", 3: b"<tool_call>", 4: b"</tool_call>", 5: b"<|channel>",
          6: b"thought", 7: b"\n", 8: b"<channel|>", 9: b"<|tool_call>"}  # fmt: skip


def machine(tokens=QWEN, budget=10, inside=True):
    m = BudgetMachine(ThinkingParams(tokens, budget, inside))
    return m, m.begin()


def feed(m, *tokens):
    """Feeds ids or pieces; returns (kinds, force) of the last verdict and all labelled kinds."""
    labelled, force, accepted = [], (), True
    for item in tokens:
        token = Token(item, PIECES.get(item, b"x")) if isinstance(item, int) else Token(50, item)
        verdict = m.step(token)
        labelled += [(kind.name, t.piece) for kind, t in verdict.labelled]
        force, accepted = verdict.force, verdict.accepted
        if force:
            m.forced()
    return labelled, force, accepted


@pytest.mark.parametrize(
    ("tail", "missing"),
    [
        (b"", 0), (b"a", 0), ("é".encode(), 0), ("é".encode()[:1], 1), ("€".encode()[:1], 2),
        ("€".encode()[:2], 1), ("😀".encode()[:1], 3), ("😀".encode()[:3], 1),
        ("😀".encode(), 0), (b"\x80\x80\x80\x80\x80", 0), (b"a\x80", 0),
    ],
)  # fmt: skip
def test_missing_utf8_bytes(tail, missing):
    assert missing_utf8_bytes(tail) == missing


def test_soft_landing_stretch_is_a_tenth_and_at_most_64():
    assert [soft_landing_stretch(b) for b in (0, 9, 10, 256, 640, 32768)] == [0, 0, 1, 25, 64, 64]


def test_natural_close_counts_the_thought_and_not_the_delimiter():
    m, force = machine()
    labelled, forced, _ = feed(m, 10, 11, 2, 12)
    assert (force, forced) == ((), ())
    assert [kind for kind, _ in labelled] == ["REASONING", "REASONING", "DELIMITER", "CONTENT"]
    assert (m.used, m.closed_by, m.phase) == (2, ClosedBy.MODEL, Phase.DONE)


def test_the_bound_closes_where_it_stands():
    m, _ = machine(budget=3)
    _, force, accepted = feed(m, 10, 11, 12)
    assert (force, accepted) == (QWEN.close, True)
    assert (m.used, m.closed_by) == (3, ClosedBy.BUDGET)


def test_a_stray_closer_after_a_forced_one_is_dropped():
    m, _ = machine(budget=1)
    feed(m, 10)
    labelled, force, _ = feed(m, b"\n", 2, b"\n\n", 12)
    assert force == ()
    assert [kind for kind, _ in labelled] == ["CONTENT", "DELIMITER", "CONTENT", "CONTENT"]


def test_a_line_end_in_the_last_stretch_closes_softly():
    m, _ = machine(budget=20)
    _, force, _ = feed(m, *[b"x"] * 17, b"\n")
    assert force == QWEN.close_after_newline
    assert (m.used, m.closed_by) == (18, ClosedBy.SOFT)


def test_a_line_end_before_the_last_stretch_does_not():
    m, _ = machine(budget=20)
    _, force, _ = feed(m, *[b"x"] * 10, b"\n")
    assert (force, m.phase) == ((), Phase.COUNTING)


def test_a_sentence_is_over_only_when_white_space_follows():
    m, _ = machine(budget=40)
    _, force, _ = feed(m, *[b"x"] * 36, b"3.")
    assert (force, m.phase) == ((), Phase.SOFT_LANDING)
    other, _ = machine(budget=40)
    _, force, _ = feed(other, *[b"x"] * 36, b"3.", b"14")
    assert force == ()
    _, force, accepted = feed(m, b" Then")
    assert (force, accepted) == (QWEN.close, False)
    assert (m.used, m.closed_by) == (37, ClosedBy.SOFT)


def test_wide_punctuation_closes_at_once():
    m, _ = machine(budget=40)
    _, force, _ = feed(m, *[b"x"] * 36, "。".encode())
    assert force == QWEN.close


def test_a_character_that_fits_the_budget_is_completed():
    m, _ = machine(budget=4)
    euro = "€".encode()
    feed(m, b"x", euro[:1])
    assert m.phase is Phase.WAITING_UTF8
    _, force, accepted = feed(m, euro[1:2], euro[2:])
    assert (force, accepted, m.used) == (QWEN.close, True, 4)


def test_a_character_that_does_not_fit_is_not_begun():
    m, _ = machine(budget=2)
    _, force, accepted = feed(m, b"x", "😀".encode()[:1])
    assert (force, accepted) == (QWEN.close, False)
    assert (m.used, m.closed_by) == (1, ClosedBy.BUDGET)


def test_a_broken_character_at_the_bound_does_not_wait_for_ever():
    m, _ = machine(budget=2)
    _, force, accepted = feed(m, "é".encode()[:1], "€".encode()[:1])
    assert (force, accepted, m.used) == (QWEN.close, False, 1)


def test_a_primed_thought_with_no_budget_is_closed_before_the_first_token():
    m, force = machine(budget=0)
    assert force == QWEN.close
    m.forced()
    assert (m.used, m.closed_by) == (0, ClosedBy.BUDGET)


def test_a_budget_of_zero_stays_armed_when_the_model_opens_a_thought():
    m, force = machine(GEMMA, budget=0, inside=False)
    assert force == ()
    labelled, force, _ = feed(m, 5, 6)
    assert labelled == []  # held back: may be the opener
    labelled, force, _ = feed(m, 7)
    assert [kind for kind, _ in labelled] == ["DELIMITER"] * 3
    assert (force, m.used) == (GEMMA.close, 0)


def test_half_an_opener_is_content():
    m, _ = machine(GEMMA, budget=5, inside=False)
    labelled, _, _ = feed(m, 5, 6, 5, 10)
    assert [p for kind, p in labelled if kind == "CONTENT"] == [
        b"<|channel>", b"thought", b"<|channel>", b"x"
    ]  # fmt: skip


def test_a_second_thought_gets_what_is_left():
    m, _ = machine(budget=5)
    feed(m, 10, 11, 12, 2, 13, 1)
    assert (m.phase, m.remaining) == (Phase.COUNTING, 2)
    _, force, _ = feed(m, 10, 11)
    assert (force, m.used) == (QWEN.close, 5)
    _, force, _ = feed(m, 14, 1)
    assert (force, m.used) == (QWEN.close, 5)


def test_a_tool_call_closes_the_thought_and_is_never_forced_into():
    m, _ = machine(budget=3)
    labelled, force, _ = feed(m, 10, 3, *[11] * 20, 1, 4, 12)
    assert force == ()
    assert (m.used, m.closed_by) == (1, ClosedBy.TOOL_CALL)
    kinds = [kind for kind, _ in labelled]
    calls = ["TOOL_CALL"] * 21 + ["DELIMITER", "TOOL_CALL"]
    assert kinds == ["REASONING", *calls, "CONTENT"]


def test_where_calls_stay_apart_from_thoughts_the_thought_is_closed_first():
    m = BudgetMachine(ThinkingParams(QWEN, 9, starts_inside=True, calls_apart=True))
    m.begin()
    assert m.step(Token(10, b"a")).accepted
    verdict = m.step(Token(3, b"<tool_call>"))
    assert (verdict.accepted, verdict.force) == (False, QWEN.close)
    assert (m.used, m.closed_by) == (1, ClosedBy.TOOL_CALL)


def test_a_thought_opened_twice_counts_and_is_no_text():
    m, _ = machine(budget=9)
    labelled, force, _ = feed(m, 10, 1, 1, 11)
    assert [kind for kind, _ in labelled] == ["REASONING", "DELIMITER", "DELIMITER", "REASONING"]
    assert (force, m.used) == ((), 4)


def test_the_end_of_generation_in_a_thought_ends_the_thought_alone():
    m, _ = machine(budget=9)
    feed(m, 10)
    verdict = m.end_of_generation()
    assert (verdict.accepted, verdict.force) == (False, QWEN.close)
    m.forced()
    assert m.closed_by is ClosedBy.MODEL
    assert m.end_of_generation().accepted


def test_without_a_bound_only_the_model_closes():
    m, _ = machine(budget=None)
    _, force, _ = feed(m, *[b"x\n"] * 5000)
    assert (force, m.used, m.remaining) == ((), 5000, None)


def test_a_thought_cut_by_the_end_of_the_output_says_so():
    m, _ = machine(GEMMA, budget=9)
    feed(m, 10)
    assert m.flush() == ()
    assert m.closed_by is ClosedBy.MAX_TOKENS


def test_the_header_of_an_answer_is_no_text():
    harmony = replace(GEMMA, silent=((60, 61, 62), (61, 62)))
    m, _ = machine(harmony, budget=5, inside=False)
    labelled, _, _ = feed(m, 5, 6, 7, 10, 8, 60, 61, 62, 11)
    assert [kind for kind, _ in labelled] == (
        ["DELIMITER"] * 3 + ["REASONING"] + ["DELIMITER"] * 4 + ["CONTENT"]
    )
    m, _ = machine(harmony, budget=5, inside=False)
    labelled, _, _ = feed(m, 61, 62, 11, 61, 11)
    assert [kind for kind, _ in labelled] == ["DELIMITER"] * 2 + ["CONTENT"] * 3


TOKENS = st.one_of(
    st.integers(1, 9), st.binary(min_size=0, max_size=4), st.sampled_from([b"\n", b". ", b"ab"])
)


@given(
    tokens=st.lists(TOKENS, max_size=120),
    budget=st.integers(0, 40),
    inside=st.booleans(),
    family=st.sampled_from([QWEN, GEMMA]),
)
def test_whatever_is_sampled_the_budget_holds(tokens, budget, inside, family):
    m, force = machine(family, budget, inside)
    if force:
        m.forced()
    fed, labelled = [], []
    for item in tokens:
        token = Token(item, PIECES[item]) if isinstance(item, int) else Token(50, item)
        verdict = m.step(token)
        if verdict.accepted:
            fed.append(token)
        labelled += verdict.labelled
        if verdict.force:
            m.forced()
        assert m.used <= budget
    labelled += m.flush()
    # Nothing accepted is lost, doubled or reordered, and the count is exact.
    assert [t for _, t in labelled] == fed
    thought = sum(kind is Kind.REASONING for kind, _ in labelled)
    opened_twice = m.used - thought
    assert 0 <= opened_twice <= sum(kind is Kind.DELIMITER for kind, _ in labelled)
