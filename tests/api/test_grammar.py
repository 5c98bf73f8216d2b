from __future__ import annotations

import json

import pytest

from local_worker.api.grammar import MAX_SOURCE_CHARACTERS, asked_grammar
from local_worker.api.schemas import ChatBody, parse
from local_worker.errors import InvalidParameterError
from local_worker.types import GrammarKind

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def asked(**fields):
    body = {"messages": [{"role": "user", "content": "x"}], **fields}
    return asked_grammar(parse(ChatBody, json.dumps(body).encode()))


def json_schema(schema=SCHEMA, **more):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"response_format": None},
        {"structured_outputs": None},
    ],
)
def test_most_requests_ask_for_no_form(fields):
    assert asked(**fields) is None


@pytest.mark.parametrize(
    ("fields", "kind", "source", "field"),
    [
        ({"response_format": json_schema()}, "json_schema", SCHEMA,
            "response_format.json_schema.schema"),
        ({"response_format": json_schema(strict=True)}, "json_schema", SCHEMA,
            "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}}, "json_schema", {"type": "object"},
            "response_format"),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json_schema", SCHEMA,
            "response_format.schema"),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA,
            "structured_outputs.json"),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "json_schema", SCHEMA,
            "structured_outputs.json"),
        ({"structured_outputs": {"json_object": True}}, "json_schema", {"type": "object"},
            "structured_outputs.json_object"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", ["a", "b"],
            "structured_outputs.choice"),
        ({"guided_json": SCHEMA}, "json_schema", SCHEMA, "guided_json"),
        ({"guided_choice": ["ü"]}, "choice", ["ü"], "guided_choice"),
        ({"json_schema": SCHEMA}, "json_schema", SCHEMA, "json_schema"),
    ],
)  # fmt: skip
def test_json_under_every_name(fields, kind, source, field):
    found = asked(**fields)
    assert (found.kind, json.loads(found.source), found.field) == (kind, source, field)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"guided_regex": "x"}, GrammarKind.REGEX),
        ({"structured_outputs": {"regex": "x"}}, GrammarKind.REGEX),
        ({"guided_grammar": "x"}, GrammarKind.GRAMMAR),
        ({"structured_outputs": {"grammar": "x"}}, GrammarKind.GRAMMAR),
        ({"grammar": "x"}, GrammarKind.GRAMMAR),
    ],
)
def test_text_under_every_name(fields, kind):
    found = asked(**fields)
    assert (found.kind, found.source) == (kind, "x")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema"),
        ({"response_format": json_schema([1])}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object", "strictt": 1}}, "response_format.strictt"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"guided_regex": " "}, "guided_regex"),
        ({"guided_regex": 5}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": "ab"}, "guided_choice"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice[0]"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"jsno": SCHEMA}}, "structured_outputs.jsno"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "x"}}, "structured_outputs.regex"),
        ({"guided_regex": "x", "guided_choice": ["x"]}, "guided_choice"),
        ({"guided_regex": "x", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"guided_regex": "x", "min_tokens": 3}, "min_tokens"),
        ({"guided_regex": "x", "ignore_eos": True}, "ignore_eos"),
        ({"guided_regex": "x" * (MAX_SOURCE_CHARACTERS + 1)}, "guided_regex"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_named(fields, param):
    with pytest.raises(InvalidParameterError) as caught:
        asked(**fields)
    assert caught.value.param == param
