from __future__ import annotations

import json

import pytest
from llguidance import LLTokenizer

from local_worker.demo import gguf_path
from local_worker.engines.process.grammar import GrammarError, compiled, culprit, fault_of
from local_worker.types import Grammar, GrammarKind


@pytest.fixture(scope="module")
def tokenizer():
    return LLTokenizer((gguf_path().parent / "tokenizer.json").read_text(), eos_token=931)


def accepts(tokenizer, kind, source, text):
    matcher = compiled(Grammar(kind, source, "x"), tokenizer)
    taken = matcher.consume_tokens(tokenizer.tokenize_str(text))
    return taken and matcher.is_accepting()


TEXTS = ["ü", "😀", 'a"b', "c\\d", "", "x/y", "two\nlines", "/"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_choice_is_taken_to_the_letter(tokenizer, text):
    assert accepts(tokenizer, GrammarKind.CHOICE, json.dumps(TEXTS), text)
    assert not accepts(tokenizer, GrammarKind.CHOICE, json.dumps(TEXTS), text + "z")


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "array"}},
    "required": ["a", "b"],
}


def test_json_is_one_line_as_python_writes_it(tokenizer):
    def fits(text, **more):
        return accepts(tokenizer, GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA | more), text)

    assert fits(json.dumps({"a": 1, "b": [1, {"c": None}]}))
    assert not fits('{"a":1,"b":[]}')
    assert not fits('{"a": 1, "b": []')
    tight = {"item_separator": ",", "key_separator": ":"}
    assert fits('{"a":1,"b":[]}', **{"x-guidance": tight})


def problem(tokenizer, kind, source):
    with pytest.raises(GrammarError) as caught:
        compiled(Grammar(kind, source, "x"), tokenizer)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        (GrammarKind.REGEX, "(a", "unclosed group"),
        (GrammarKind.JSON_SCHEMA, '{"type": "objekt"}', "objekt"),
        (GrammarKind.GRAMMAR, "::=", "convert"),
        (GrammarKind.GRAMMAR, "start: nobody", "nobody"),
        # What compiles, and cannot be followed from the first token on.
        (GrammarKind.REGEX, "(a?){5000}a{5000}", "fits no answer"),
        (GrammarKind.JSON_SCHEMA, '{"$ref": "#"}', "fits no answer"),
    ],
)
def test_what_is_wrong_is_said(tokenizer, kind, source, words):
    assert words in str(problem(tokenizer, kind, source))


def obj(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


INT = {"type": "integer"}
NEVER = {"type": "integer", "minimum": 5, "maximum": 3}


@pytest.mark.parametrize(
    ("schema", "path", "words"),
    [
        ({"type": "objekt"}, "", "objekt"),
        (obj(a=INT, b=obj(c={"not": INT})), ".properties.b.properties.c", "not"),
        (obj(a={"type": "array", "uniqueItems": True}), ".properties.a", "uniqueItems"),
        (obj(a={"anyOf": [INT, {"if": {}}]}), ".properties.a.anyOf[1]", "if"),
        (obj(a=NEVER), "", "'a' is unsatisfiable"),
        (obj(k=obj(a=NEVER)), "", "'k' is unsatisfiable"),
        ({**obj(a={"$ref": "#/$defs/d"}), "$defs": {"d": {"not": INT}}}, ".$defs.d", "not"),
        (obj(a={"$ref": "#/$defs/nowhere"}), ".properties.a", "nowhere"),
        # Never ends: each one needs another one.
        (obj(a={"$ref": "#"}), "", "fits no answer"),
    ],
)  # fmt: skip
def test_the_part_at_fault_is_found(tokenizer, schema, path, words):
    source = json.dumps(schema)
    found = problem(tokenizer, GrammarKind.JSON_SCHEMA, source)
    assert words in str(found)
    assert fault_of(Grammar(GrammarKind.JSON_SCHEMA, source, "x"), str(found), tokenizer) == path


def test_a_huge_schema_is_not_searched_for_ever():
    tries = []

    def fails_alike(schema):
        tries.append(schema)
        return False

    assert culprit(obj(**{f"p{i}": INT for i in range(5000)}), fails_alike) == ""
    assert len(tries) == 64


@pytest.mark.parametrize(
    "schema",
    [
        obj(v=INT, kids={"type": "array", "items": {"$ref": "#"}}),
        {"oneOf": [obj(kind={"const": "a"}), obj(kind={"const": "b"})]},
        {"enum": [f"value number {i}" for i in range(5000)]},
    ],
)
def test_what_people_send_can_be_followed(tokenizer, schema):
    compiled(Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema), "x"), tokenizer)


@pytest.mark.parametrize(
    "schema",
    [{"type": "object", "properties": 5}, {"anyOf": 7}, {"patternProperties": 7, "not": {}},
     {"$defs": "a", "not": {}}, {"prefixItems": "x"}],
)  # fmt: skip
def test_what_is_no_schema_at_all_is_said_as_well(tokenizer, schema):
    assert str(problem(tokenizer, GrammarKind.JSON_SCHEMA, json.dumps(schema)))


def test_a_layout_of_its_own_is_still_json(tokenizer):
    schema = {"type": "object", "x-guidance": {"key_separator": "="}}
    found = problem(tokenizer, GrammarKind.JSON_SCHEMA, json.dumps(schema))
    assert found.path == ".x-guidance"
