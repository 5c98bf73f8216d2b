from __future__ import annotations

import pytest

from local_worker.reasoning.routing import (
    Conversations,
    Decision,
    Facts,
    by_rule,
    conversation_key,
)
from local_worker.rules import EffortRule, When

FACTS = Facts("demo", "json_schema", 500, {"team": "audit", "n": 3}, tools=True)


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        (When(model="demo"), True),
        (When(model="other"), False),
        (When(response_format="json_schema"), True),
        (When(response_format="text"), False),
        (When(tools=True), True),
        (When(tools=False), False),
        (When(after_tool=False), True),
        (When(after_tool=True), False),
        (When(prompt_tokens_above=499), True),
        (When(prompt_tokens_above=500), False),
        (When(prompt_tokens_below=501), True),
        (When(prompt_tokens_below=500), False),
        (When(metadata={"team": "audit"}), True),
        (When(metadata={"team": "sales"}), False),
        (When(metadata={"team": "audit", "who": "x"}), False),
        (When(metadata={"team": "audit"}, model="other"), False),
    ],
)
def test_a_rule_fits_where_all_it_says_holds(when, fits):
    rules = (EffortRule(name="a rule", when=when, effort="low"),)
    assert by_rule(rules, FACTS) == (Decision("low", "rule", "a rule") if fits else None)


def test_the_first_rule_that_fits_counts():
    rules = [
        EffortRule(name=effort, when=When(model=model), effort=effort)
        for model, effort in (("other", "none"), ("demo", "low"), ("demo", "high"))
    ]
    assert by_rule(rules, FACTS) == Decision("low", "rule", "low")


def turns(*texts):
    roles = ("system", "user", "assistant")
    return [
        {"role": roles[0] if i == 0 else roles[1 + (i + 1) % 2], "content": text}
        for i, text in enumerate(texts)
    ]


def test_a_conversation_is_known_by_how_it_began():
    key = conversation_key(turns("be brief", "hello"), None, "")
    assert key == conversation_key(turns("be brief", "hello", "hi", "and then?"), None, "")
    assert key != conversation_key(turns("be brief", "hallo"), None, "")
    assert key != conversation_key(turns("be long", "hello"), None, "")
    assert key != conversation_key(turns("be brief", "hello"), None, "another tenant")


def test_or_by_the_key_that_its_client_gives_it():
    key = conversation_key(turns("be brief", "hello"), "k", "")
    assert key == conversation_key(turns("be long", "hallo"), "k", "")
    assert key != conversation_key(turns("be brief", "hello"), "l", "")
    assert key != conversation_key(turns("be brief", "hello"), "k", "another tenant")


def test_unpaired_surrogates_are_no_reason_to_fail():
    assert conversation_key(turns("\ud800", "x"), None, "")


def test_the_latest_conversations_are_remembered():
    known = Conversations(most=2)
    known.remember(b"a", "low")
    known.remember(b"b", "high")
    again = Decision("low", "conversation", "as it was for this conversation before")
    assert known.find(b"a") == again
    known.remember(b"c", "none")
    assert known.find(b"b") is None
    assert known.find(b"a") == again
