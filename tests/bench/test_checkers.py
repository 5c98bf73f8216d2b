from __future__ import annotations

from datetime import date

import pytest
from pydantic import TypeAdapter, ValidationError

from local_worker.bench.checkers import Checker

CHECKER = TypeAdapter(Checker)


def checker(**fields):
    return CHECKER.validate_python(fields)


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("fields", "right", "wrong"),
    [
        ({"kind": "exact", "text": "Yes."}, ["Yes.", " Yes.\n"], ["yes.", "Yes", "Yes. No."]),
        (
            {"kind": "number", "value": 1234.5},
            ["1234.5", "It is 1,234.50.", "from 3 to 1234.5 EUR"],
            ["1234.6", "", "1234.5 or 7", "none"],
        ),
        (
            {"kind": "number", "value": -2},
            ["-2", "= -2.0", "\u22122", "-$2"],
            ["2", "- 3", "2-", "- 2", "4-2"],
        ),
        ({"kind": "number", "value": 100, "relative": 0.01}, ["99", "101"], ["98.9", "102"]),
        ({"kind": "number", "value": 0, "tolerance": 0.5}, ["0.5", "-.5"], ["0.6"]),
        (
            {"kind": "json", "fields": {"a": 1, "b": "x"}},
            ['{"b": "x", "a": 1.0, "c": []}', '```json\n{"a":1,"b":"x"}\n```'],
            ['{"a": 1}', "[]", "a: 1", '{"a": "1", "b": "x"}', "3"],
        ),
        ({"kind": "json", "fields": {"a": 1}, "only": True}, ['{"a": 1}'], ['{"a": 1, "b": 2}']),
        (
            {"kind": "json", "schema": SCHEMA},
            ['{"n": 3}'],
            ['{"n": "3"}', "{}", '{"n":' * 5000, "[" * 100_000],
        ),
        ({"kind": "json", "schema": {"$ref": "#/nowhere"}}, [], ['{"a": 1}']),
        ({"kind": "regex", "pattern": "^ok( .*)?$"}, ["ok", "ok then"], ["not ok"]),
        (
            {"kind": "choice", "answer": "tax", "among": ["tax", "law"]},
            ["tax", "It is Tax."],
            ["law", "tax or law", "taxes", ""],
        ),
        ({"kind": "contains", "texts": ["Rome", "Oslo"]}, ["oslo, rome"], ["Oslo", ""]),
    ],
)
def test_what_is_right_and_what_is_not(fields, right, wrong):
    judge = checker(**fields)
    assert [answer for answer in right if not judge.accepts(answer)] == []
    assert [answer for answer in wrong if judge.accepts(answer)] == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "exactly", "text": "x"}, "does not match any of the expected tags"),
        ({"kind": "regex", "pattern": "("}, "no regular expression"),
        ({"kind": "json"}, "needs `fields` or a `schema`"),
        ({"kind": "json", "schema": {"type": "some"}}, "no JSON schema"),
        ({"kind": "choice", "answer": "a", "among": ["b", "c"]}, "not among"),
        ({"kind": "choice", "answer": "a", "among": ["a"]}, "at least 2"),
        ({"kind": "contains", "texts": []}, "at least 1"),
        ({"kind": "number", "value": float("nan")}, "finite"),
        ({"kind": "number", "value": "3"}, "valid number"),
        ({"kind": "exact", "text": "x", "txet": "y"}, "Extra inputs"),
        ({"kind": "json", "fields": {"a": {"b": date(2024, 1, 5)}}}, "put it in quotes"),
        ({"kind": "json", "schema": {"properties": {"a": {"$ref": "http://x/y"}}}}, "not followed"),
    ],
)
def test_a_broken_checker_is_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        checker(**fields)
