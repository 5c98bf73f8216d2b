"""Whether an answer is right: one checker for each form of answer. Pure.

They read an answer as a person would: words around a number, a code fence or the spaces of a JSON
object do not matter, unless the checker is `exact`.
"""

from __future__ import annotations

import json
import math
import re
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jsonschema
from pydantic import Field, field_validator, model_validator
from referencing import Registry
from referencing.exceptions import Unresolvable

from local_worker.documents import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

FENCE = re.compile(r"^```(?:json)?\s*|\s*```$")
NUMBER = re.compile(r"((?<!\d)[-+\u2212])?[$\u20ac\u00a3]?((?:\d[\d,]*)?\.?\d+)")
"""A sign, also the typographical one; a currency may stand behind it. 10-13 has none."""
LONGEST = 20_000
"""Characters of an answer that are looked at."""


class Exact(Record):
    """The answer is this text, but for white space at its ends."""

    kind: Literal["exact"]
    text: str

    def accepts(self, answer: str) -> bool:
        """Whether the answer is right."""
        return answer.strip() == self.text.strip()


class Number(Record):
    """The last number of the answer is this one.

    Attributes:
        tolerance: it may differ by so much.
        relative: or by this share of it.
    """

    kind: Literal["number"]
    value: float
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    relative: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @field_validator("value")
    @classmethod
    def _check_finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value

    def accepts(self, answer: str) -> bool:
        """Whether the answer is right."""
        found = NUMBER.findall(answer)
        if not found:
            return False
        sign, digits = found[-1]
        given = float(digits.replace(",", "")) * (1 if sign in ("", "+") else -1)
        slack = max(self.tolerance, self.relative * abs(self.value), 1e-9 * abs(self.value))
        return abs(given - self.value) <= slack


class Json(Record):
    """The answer is a JSON object, fenced or not, with these values; others may be there, too.

    Attributes:
        fields: key -> value; numbers are compared as numbers.
        only: whether no other keys may be there.
        schema: that it has to follow, besides.
    """

    kind: Literal["json"]
    fields: dict[str, Any] = Field(default_factory=dict)
    only: bool = False
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _check_schema(self) -> Json:
        if any(isinstance(value, date) for value in _values(self.fields)):
            raise ValueError("a date in `fields` is no text: put it in quotes")
        if self.schema_ is not None:
            if any(not str(ref).startswith("#") for ref in _references(self.schema_)):
                raise ValueError("a `$ref` out of the `schema` is not followed")
            try:
                jsonschema.validators.validator_for(self.schema_).check_schema(self.schema_)
            except jsonschema.SchemaError as error:
                raise ValueError(f"`schema` is no JSON schema: {error.message}") from None
        elif not self.fields:
            raise ValueError("needs `fields` or a `schema`")
        return self

    def accepts(self, answer: str) -> bool:
        """Whether the answer is right."""
        try:
            found = json.loads(FENCE.sub("", answer.strip()))
        except (ValueError, RecursionError):
            return False
        if not isinstance(found, dict) or (self.only and found.keys() != self.fields.keys()):
            return False
        if self.schema_ is not None and not _follows(found, self.schema_):
            return False
        return all(key in found and found[key] == value for key, value in self.fields.items())


class Regex(Record):
    """The answer matches this regular expression somewhere."""

    kind: Literal["regex"]
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return pattern

    def accepts(self, answer: str) -> bool:
        """Whether the answer is right."""
        return re.search(self.pattern, answer[:LONGEST]) is not None


class Choice(Record):
    """The answer names this word of a set and no other, in upper or lower case."""

    kind: Literal["choice"]
    answer: str
    among: tuple[str, ...] = Field(min_length=2, strict=False)

    @model_validator(mode="after")
    def _check_answer(self) -> Choice:
        if self.answer not in self.among:
            raise ValueError(f"the answer {self.answer!r} is not among the choices")
        return self

    def accepts(self, answer: str) -> bool:
        """Whether the answer is right."""
        named = {
            word
            for word in self.among
            if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE)
        }
        return named == {self.answer}


class Contains(Record):
    """The answer has all of these texts in it, in upper or lower case."""

    kind: Literal["contains"]
    texts: tuple[str, ...] = Field(min_length=1, strict=False)

    def accepts(self, answer: str) -> bool:
        """Whether the answer is right."""
        return all(text.lower() in answer.lower() for text in self.texts)


Checker = Annotated[Exact | Number | Json | Regex | Choice | Contains, Field(discriminator="kind")]
"""By its `kind`."""


def _follows(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    # An empty registry: nothing is ever fetched.
    validator = jsonschema.validators.validator_for(schema)(schema, registry=Registry())
    try:
        return bool(validator.is_valid(value))
    except (RecursionError, Unresolvable):
        return False


def _values(node: object) -> Iterator[object]:
    """All values in objects and lists."""
    items = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for item in items:
        yield item
        yield from _values(item)


def _references(node: object) -> Iterator[object]:
    """What `$ref` says, wherever it does."""
    for some in (node, *_values(node)):
        if isinstance(some, dict):
            yield from (value for key, value in some.items() if key in ("$ref", "$dynamicRef"))
