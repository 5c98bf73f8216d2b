"""Arguments that are no JSON, as rules of a Lark grammar made from a tool's JSON schema. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from local_worker.toolcalls.schemas import (
    properties_of,
    referred,
    required_of,
    texts_of,
    types_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_worker.toolcalls.schemas import Schema

_NUMBER = r"/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/"
_INTEGER = "/-?(0|[1-9][0-9]*)/"
_DEEPEST = 16
_ENDS_QWEN, _ENDS_GEMMA = ">\n", ':,{}[]<>"\n'
"""Characters that end a parameter's name."""

_PYTHONS_WORDS = {"None": "null", "True": "boolean", "False": "boolean"}
"""As templates write them, and so the models that were trained with those."""


class Notation:
    """Rules of a grammar that is being written.

    Attributes:
        terminals: control tokens' terminals by their spellings.
        rules: so far.
    """

    def __init__(self, terminals: Mapping[str, str]) -> None:
        self.terminals = terminals
        self.rules: list[str] = []

    def rule(self, body: str) -> str:
        """Adds a rule. Returns its name."""
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}: {body}")
        return name

    def text_until(self, end: str) -> str:
        """Adds a rule for any text up to the first such end, and the end. Returns its name."""
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}[suffix={json.dumps(end)}]: /(.|\\n)*/")
        return name

    def once(self, name: str, body: str) -> str:
        """Adds a rule of that name, unless it is there. Returns the name."""
        rule = f"{name}: {body}"
        if rule not in self.rules:
            self.rules.append(rule)
        return name


class LayoutError(ValueError):
    """A parameter's name that the layout cannot hold."""


def _checked(key: str, forbidden: str) -> str:
    """The name of a parameter.

    Raises:
        LayoutError: it has one of the characters in it, or white space around it.
    """
    if not key.strip() or key != key.strip() or set(key) & set(forbidden):
        raise LayoutError(key)
    return key


def _is_open(schema: Schema) -> bool:
    """Whether arguments are described otherwise than by their names."""
    return any(schema.get(k) for k in ("additionalProperties", "anyOf", "oneOf", "allOf", "$ref"))


def qwen_parameters(schema: Schema, notation: Notation) -> str:
    """One element for each property, in their order; texts as they are, the rest as JSON."""
    end = "\n</parameter>\n"

    def element(key: str, part: Schema) -> str:
        head = json.dumps(f"<parameter={_checked(key, _ENDS_QWEN)}>\n")
        types = types_of(part, schema)
        texts = texts_of(part)
        if texts is not None:
            return f"{head} ({' | '.join(map(json.dumps, texts))}) {json.dumps(end)}"
        if types == {"string"} or not types:
            return f"{head} {notation.text_until(end)}"
        shared = {k: schema[k] for k in ("$defs", "definitions", "x-guidance") if k in schema}
        value = f"%json {json.dumps({**shared, **part})}"
        words = [json.dumps(word) for word, kind in _PYTHONS_WORDS.items() if kind in types]
        if words and "enum" not in part and "const" not in part:
            value = notation.rule(" | ".join([value, *words]))
        return f"{head} {value} {json.dumps(end)}"

    if not properties_of(schema) and _is_open(schema):
        value = notation.text_until(end)
        element_of_any = notation.rule(f'"<parameter=" /[^>\\n ]+/ ">\\n" {value}')
        return f"{element_of_any}*"
    return " ".join(
        notation.rule(element(key, part)) + ("" if key in required_of(schema) else "?")
        for key, part in properties_of(schema).items()
    )


_FREE_OBJECT = '"{" (KEY ":" anything ("," KEY ":" anything)*)? "}"'


class _Gemma:
    """Gemma's notation of values."""

    def __init__(self, root: Schema, notation: Notation) -> None:
        self._root = root
        self._notation = notation
        self._quote = notation.terminals['<|"|>']
        self._references: dict[str, str] = {}

    def value(self, schema: Schema, depth: int = 0) -> str:
        """The name of a rule for values of a schema, or a rule's body."""
        if depth > _DEEPEST:
            return self._anything()
        if isinstance(reference := schema.get("$ref"), str):
            return self._reference(reference, depth)
        if (texts := texts_of(schema)) is not None:
            return f"{self._quote} ({' | '.join(map(json.dumps, texts))}) {self._quote}"
        parts = schema.get("anyOf") or schema.get("oneOf")
        if isinstance(parts, list) and parts:
            kinds = [self._rule(self.value(p, depth + 1)) for p in parts if isinstance(p, dict)]
            return " | ".join(kinds)
        kinds = [self._kind(name, schema, depth) for name in sorted(types_of(schema))]
        return " | ".join(kinds) if kinds else self._anything()

    def object(self, schema: Schema, depth: int) -> str:
        """An object's members, sorted as the template sorts them, in braces."""
        required = required_of(schema)
        keys = sorted(properties_of(schema), key=str.lower)
        if not keys:
            return '"{" "}"' if depth == 0 and not _is_open(schema) else self._free_object()
        # What may be left out takes its comma with it: a rule for what follows each member.
        rest = after = '"}"'
        for key in reversed(keys):
            value = self._rule(self.value(properties_of(schema)[key], depth + 1))
            member = f"{json.dumps(_checked(key, _ENDS_GEMMA) + ':')} {value}"
            first = self._rule(f"{member} {self._rule(after)}")
            follow = self._rule(f'"," {first}')
            if key in required:
                rest, after = first, follow
            else:
                rest, after = f"{first} | {rest}", f"{follow} | {after}"
            rest, after = self._rule(rest), self._rule(after)
        return f'"{{" {rest}'

    def _kind(self, name: str, schema: Schema, depth: int) -> str:
        simple = {
            "string": f"{self._quote} {self._text()} {self._quote}",
            "integer": _INTEGER,
            "number": _NUMBER,
            "boolean": '("true" | "false")',
            "null": '("null" | "None")',
        }
        if name in simple:
            return simple[name]
        if name == "object":
            return self.object(schema, depth + 1)
        items = schema.get("items")
        item = self._rule(self.value(items if isinstance(items, dict) else {}, depth + 1))
        return f'"[" ({item} ("," {item})*)? "]"'

    def _text(self) -> str:
        """Text that does not spell the quote: only the token itself ends it."""
        return self._notation.once("QUOTED", r'/(.|\n)*/ & ~/(.|\n)*<\|"\|>(.|\n)*/')

    def _reference(self, reference: str, depth: int) -> str:
        if reference not in self._references:
            name = f"ref{len(self._references)}"
            self._references[reference] = name
            found = referred(reference, self._root)
            self._notation.rules.append(f"{name}: {self.value(found, depth + 1)}")
        return self._references[reference]

    def _anything(self) -> str:
        simple = [self._kind(name, {}, 0) for name in ("string", "number", "boolean", "null")]
        self._notation.once("KEY", r"/[^:,{}\[\]<>\n]+/")
        sequence = '"[" (anything ("," anything)*)? "]"'
        return self._notation.once("anything", " | ".join([*simple, sequence, _FREE_OBJECT]))

    def _free_object(self) -> str:
        self._anything()
        return _FREE_OBJECT

    def _rule(self, body: str) -> str:
        return body if body.isidentifier() else self._notation.rule(body)


def gemma_arguments(schema: Schema, notation: Notation) -> str:
    """The arguments of a call in Gemma's notation."""
    return _Gemma(schema, notation).object(schema, 0)
