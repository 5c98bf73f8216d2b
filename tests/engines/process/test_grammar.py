from __future__ import annotations

import json

import pytest
from llguidance import LLMatcher, LLTokenizer

from local_worker.demo import gguf_path
from local_worker.engines.process.grammar import compiled, problem_of
from local_worker.types import Grammar, GrammarKind


@pytest.fixture(scope="module")
def tokenizer():
    return LLTokenizer((gguf_path().parent / "tokenizer.json").read_text(), eos_token=931)


def accepts(tokenizer, kind, source, text):
    matcher = LLMatcher(tokenizer, compiled(Grammar(kind, source, "x")))
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


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        (GrammarKind.REGEX, "(a", "unclosed group"),
        (GrammarKind.JSON_SCHEMA, '{"type": "objekt"}', "objekt"),
        (GrammarKind.GRAMMAR, "::=", "convert"),
        (GrammarKind.GRAMMAR, "start: nobody", "nobody"),
    ],
)
def test_what_is_wrong_is_said(tokenizer, kind, source, words):
    assert words in str(problem_of(Grammar(kind, source, "x"), tokenizer))


def test_a_grammar_that_can_be_followed_has_no_problem(tokenizer):
    assert problem_of(Grammar(GrammarKind.REGEX, "a+", "x"), tokenizer) is None
