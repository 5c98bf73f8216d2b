"""Arguments that are no JSON, as rules of a Lark grammar made from a tool's JSON schema. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_worker.toolcalls.qwen_xml import referred, types_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema = dict[str, Any]

_NUMBER = r"/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/"
_INTEGER = "/-?(0|[1-9][0-9]*)/"
_DEEPEST = 16

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


class LayoutError(ValueError):
    """A parameter's name that the layout cannot hold."""


def _is_open(schema: Schema) -> bool:
    """Whether arguments are described otherwise than by their names."""
    return any(schema.get(k) for k in ("additionalProperties", "anyOf", "oneOf", "allOf", "$ref"))


def qwen_parameters(schema: Schema, notation: Notation) -> str:
    """One element for each property, in their order; texts as they are, the rest as JSON."""
    end = "\n</parameter>\n"

    def element(key: str, part: Schema) -> str:
        if not key.strip() or key != key.strip() or set(key) & set(">\n"):
            raise LayoutError(key)
        head = json.dumps(f"<parameter={key}>\n")
        types = types_of(part, schema)
        texts = _texts(part)
        if texts is not None:
            return f"{head} ({' | '.join(map(json.dumps, texts))}) {json.dumps(end)}"
        if types == {"string"} or not types:
            name = f"r{len(notation.rules)}"
            notation.rules.append(f"{name}[suffix={json.dumps(end)}]: /(.|\\n)*/")
            return f"{head} {name}"
        shared = {k: schema[k] for k in ("$defs", "definitions", "x-guidance") if k in schema}
        value = f"%json {json.dumps({**shared, **part})}"
        words = [json.dumps(word) for word, kind in _PYTHONS_WORDS.items() if kind in types]
        if words and "enum" not in part and "const" not in part:
            value = notation.rule(" | ".join([value, *words]))
        return f"{head} {value} {json.dumps(end)}"

    if not _properties(schema) and _is_open(schema):
        name = f"r{len(notation.rules)}"
        notation.rules.append(f"{name}[suffix={json.dumps(end)}]: /(.|\\n)*/")
        element_of_any = notation.rule(f'"<parameter=" /[^>\\n ]+/ ">\\n" {name}')
        return f"{element_of_any}*"
    return " ".join(
        notation.rule(element(key, part)) + ("" if key in _required(schema) else "?")
        for key, part in _properties(schema).items()
    )


def _properties(schema: Schema) -> dict[str, Schema]:
    found = schema.get("properties")
    if not isinstance(found, dict):
        return {}
    return {key: part if isinstance(part, dict) else {} for key, part in found.items()}


def _required(schema: Schema) -> frozenset[str]:
    names = schema.get("required")
    named = names if isinstance(names, list) else []
    return frozenset(name for name in named if isinstance(name, str))


def _texts(schema: Schema) -> list[str] | None:
    """The texts that a schema chooses from, or None."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        return None
    return values or None


class _Gemma:
    """Gemma's notation of values."""

    def __init__(self, root: Schema, notation: Notation) -> None:
        self._root = root
        self._notation = notation
        self._quote = notation.terminals['<|"|>']
        self._references: dict[str, str] = {}
        self._any: str | None = None

    def value(self, schema: Schema, depth: int = 0) -> str:
        """The name of a rule for values of a schema, or a rule's body."""
        if depth > _DEEPEST:
            return self._anything()
        if isinstance(reference := schema.get("$ref"), str):
            return self._reference(reference, depth)
        if (texts := _texts(schema)) is not None:
            return f"{self._quote} ({' | '.join(map(json.dumps, texts))}) {self._quote}"
        parts = schema.get("anyOf") or schema.get("oneOf")
        if isinstance(parts, list) and parts:
            kinds = [self._rule(self.value(p, depth + 1)) for p in parts if isinstance(p, dict)]
            return " | ".join(kinds)
        kinds = [self._kind(name, schema, depth) for name in sorted(types_of(schema))]
        return " | ".join(kinds) if kinds else self._anything()

    def object(self, schema: Schema, depth: int) -> str:
        """An object's members, sorted as the template sorts them, in braces."""
        required = _required(schema)
        keys = sorted(_properties(schema), key=str.lower)
        if not keys:
            return '"{" "}"' if depth == 0 and not _is_open(schema) else self._free_object()
        # What may be left out takes its comma with it: a rule for what follows each member.
        rest = after = '"}"'
        for key in reversed(keys):
            if not key.strip() or key != key.strip() or set(key) & set(':,{}[]<>"\n'):
                raise LayoutError(key)
            value = self._rule(self.value(_properties(schema)[key], depth + 1))
            member = f"{json.dumps(key + ':')} {value}"
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
        rule = 'QUOTED: /(.|\\n)*/ & ~/(.|\\n)*<\\|"\\|>(.|\\n)*/'
        if rule not in self._notation.rules:
            self._notation.rules.append(rule)
        return "QUOTED"

    def _reference(self, reference: str, depth: int) -> str:
        if reference not in self._references:
            name = f"ref{len(self._references)}"
            self._references[reference] = name
            found = referred(reference, self._root)
            self._notation.rules.append(f"{name}: {self.value(found, depth + 1)}")
        return self._references[reference]

    def _anything(self) -> str:
        if self._any is None:
            self._any = "anything"
            simple = [self._kind(name, {}, 0) for name in ("string", "number", "boolean", "null")]
            self._notation.rules.append(
                f'anything: {" | ".join(simple)} | "[" (anything ("," anything)*)? "]"'
                f" | {self._free_object()}"
            )
        return self._any

    def _free_object(self) -> str:
        return '"{" (KEY ":" anything ("," KEY ":" anything)*)? "}"' if self._key() else ""

    def _key(self) -> bool:
        rule = "KEY: /[^:,{}\\[\\]<>\\n]+/"
        if rule not in self._notation.rules:
            self._notation.rules.append(rule)
            self._anything()
        return True

    def _rule(self, body: str) -> str:
        plain = body.isidentifier()
        return body if plain else self._notation.rule(body)


def gemma_arguments(schema: Schema, notation: Notation) -> str:
    """The arguments of a call in Gemma's notation."""
    return _Gemma(schema, notation).object(schema, 0)
