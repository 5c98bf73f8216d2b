"""Grammars through llguidance, which knows both engines' vocabularies: one meaning on either."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llguidance import LLMatcher, grammar_from

from local_worker.types import GrammarKind

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from local_worker.types import Grammar

ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is laid out: as Python writes it. Free white space costs tokens, hides what is forced,
and lets a model that is pushed off its way write line ends until max_tokens."""


def source_of(grammar: Grammar) -> str:
    """The source with what both engines' llguidance is to know about it.

    A schema may choose another layout by an `x-guidance` object of its own.
    """
    if grammar.kind is not GrammarKind.JSON_SCHEMA:
        return grammar.source
    schema = json.loads(grammar.source)
    wish = schema.get("x-guidance")
    return json.dumps(schema | {"x-guidance": ONE_LINE | (wish if isinstance(wish, dict) else {})})


def compiled(grammar: Grammar) -> str:
    """The grammar in llguidance's own form.

    Raises:
        ValueError: it is not written in the language it claims to be in.
    """
    found: str = grammar_from(str(grammar.kind), source_of(grammar))
    return found


def problem_of(grammar: Grammar, tokenizer: LLTokenizer) -> str | None:
    """Why answers cannot follow the grammar, in llguidance's words; None where they can."""
    try:
        source = compiled(grammar)
    except ValueError as error:
        return str(error)
    is_error, complaints = LLMatcher.validate_grammar_with_warnings(source, tokenizer)
    return str(complaints[0]) if is_error else None
