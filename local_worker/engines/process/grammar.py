"""Grammars through llguidance, which knows both engines' vocabularies: one meaning on either."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from llguidance import LLMatcher, LLParserLimits, grammar_from

from local_worker.guidance import with_guidance
from local_worker.types import GrammarKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llguidance import LLTokenizer

    from local_worker.types import Grammar

LIMITS = LLParserLimits(step_lexer_fuel=100_000, verbose_errors=False)
"""What a grammar may take to compile (with 128 KiB of source, a sixth of a second on one core)
and to follow (a few milliseconds a token): the library's own bounds, and half its fuel. They do not
cover everything: `trial` bounds the first, and llama.cpp's guides the second."""

_SPECIAL = frozenset(r"\.+*?()|[]{}^$#&-~/")

SHORT_SECONDS = 0.02
"""After which a grammar that is still being compiled stands back while sequences are decoded. Most
take a few milliseconds, and tens of them where they wait for a processor with nothing to do."""

LOWEST_PRIORITY = 19

MOST_TRIES = 64
"""Parts of a schema that are compiled by themselves to find the one at fault."""

_PARTS = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf")
_NAMED = ("$defs", "definitions", "properties", "patternProperties")

T = TypeVar("T")

MOST_KNOWN = 256
MOST_SOURCE = 1 << 20
"""Grammars that are remembered, and characters of their sources; 100,000 take up to 17 MB."""


class Grammars(Protocol):
    """Says which grammars answers can follow. Safe to use from several threads."""

    def check(self, grammar: Grammar) -> None:
        """Raises `GrammarError` where they cannot."""
        ...

    def knows(self, grammar: Grammar) -> bool:
        """Whether it was found good not long ago, so that there is nothing to do."""
        ...


class _Used(NamedTuple, Generic[T]):
    """What is remembered of a grammar, and when it was last asked for."""

    value: T
    when: float


class Known(Generic[T]):
    """What is remembered of grammars, within bounds. Safe to use from several threads.

    Args:
        kept: seconds for which one that was asked for is not forgotten, whatever the bounds.
        clock: for that.
    """

    def __init__(self, kept: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept = kept
        self._clock = clock
        self._found: OrderedDict[tuple[str, str], _Used[T]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, grammar: Grammar) -> bool:
        return self.get(grammar) is not None

    def get(self, grammar: Grammar) -> T | None:
        """What was put, which counts as asked for now; None for one that is not known."""
        key = (grammar.kind, grammar.source)
        with self._lock:
            used = self._found.get(key)
            if used is None:
                return None
            self._use(key, used.value)
            return used.value

    def put(self, grammar: Grammar, value: T) -> None:
        """Remembers it."""
        with self._lock:
            self._use((grammar.kind, grammar.source), value)

    def _use(self, key: tuple[str, str], value: T) -> None:
        """Forgets others for it, those first that nobody has asked for the longest."""
        self._found[key] = _Used(value, self._clock())
        self._found.move_to_end(key)
        while len(self._found) > MOST_KNOWN or self._source_size() > MOST_SOURCE:
            oldest = next(iter(self._found))
            if self._clock() - self._found[oldest].when < self._kept:
                return
            del self._found[oldest]

    def _source_size(self) -> int:
        return sum(len(source) for _, source in self._found)


class GrammarError(Exception):
    """Answers cannot follow a grammar.

    Attributes:
        path: to the part at fault, after the field that the grammar came in; often empty.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


def source_of(grammar: Grammar) -> str:
    """The source with what both engines' llguidance is to know about it.

    A schema may choose another layout by an `x-guidance` object of its own.
    """
    if grammar.kind is GrammarKind.CHOICE:
        # As one lexeme: thousands of alternatives of a rule would be too complex to follow.
        return "|".join(map(_literal, json.loads(grammar.source)))
    if grammar.kind is not GrammarKind.JSON_SCHEMA:
        return grammar.source
    schema = json.loads(grammar.source)
    try:
        return json.dumps(with_guidance(schema))
    except ValueError as error:
        raise GrammarError(str(error), ".x-guidance") from None


def language_of(grammar: Grammar) -> str:
    """What `source_of` is written in, by llguidance's name for it."""
    return "regex" if grammar.kind is GrammarKind.CHOICE else str(grammar.kind)


def _literal(text: str) -> str:
    """A regular expression of Rust's for a text."""
    return "".join(f"\\{c}" if c in _SPECIAL else c for c in text)


def compiled(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    """What holds answers to the grammar, at its beginning. `trial` bounds what that takes.

    Raises:
        GrammarError: answers cannot follow it.
    """
    return _compile(language_of(grammar), source_of(grammar), tokenizer)


def fault_of(grammar: Grammar, message: str, tokenizer: LLTokenizer) -> str:
    """The path to the part of a schema that is at fault, by compiling its parts; often empty.

    Args:
        grammar: that answers cannot follow.
        message: why.
        tokenizer: any.
    """
    if grammar.kind is not GrammarKind.JSON_SCHEMA:
        return ""

    def fails_alike(schema: dict[str, Any]) -> bool:
        try:
            _compile(str(grammar.kind), json.dumps(schema), tokenizer)
        except GrammarError as error:
            return str(error) == message
        return False

    return culprit(json.loads(grammar.source), fails_alike)


def _compile(kind: str, source: str, tokenizer: LLTokenizer) -> LLMatcher:
    try:
        matcher = LLMatcher(tokenizer, grammar_from(kind, source), log_level=0, limits=LIMITS)
    except ValueError as error:
        raise GrammarError(str(error)) from None
    # Some grammars compile, and allow nothing, or are too complex from their first token on.
    trial = matcher.deep_copy()
    trial.consume_tokens(trial.compute_ff_tokens())
    if not trial.is_stopped():
        trial.compute_bitmask()
    if matcher.is_error():
        raise GrammarError(words_of(matcher))
    if trial.is_error() or (trial.is_stopped() and not trial.is_accepting()):
        raise GrammarError(f"it is too complex, or fits no answer that ends ({words_of(trial)})")
    return matcher


def words_of(matcher: LLMatcher) -> str:
    """What is wrong with it, in the library's words."""
    error: str = matcher.get_error().removesuffix("\n<non-verbose/>")
    return error or str(matcher.stop_reason())


def culprit(schema: dict[str, Any], fails_alike: Callable[[dict[str, Any]], bool]) -> str:
    """The path to the smallest part of a schema that has its fault, e.g. `.properties.a`.

    Args:
        schema: that has one.
        fails_alike: whether a schema, compiled by itself, has the same.
    """
    shared: dict[str, Any] = {k: schema[k] for k in ("$defs", "definitions") if k in schema}
    path, tries = "", MOST_TRIES
    while True:
        for step, part in _parts_of(schema):
            if not tries:
                return path
            tries -= 1
            if fails_alike({**shared, **part}):
                path, schema = path + step, part
                break
        else:
            return path


def _parts_of(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in (*_NAMED, *_LISTS, *_PARTS):
        value = schema.get(name)
        if name in _PARTS:
            parts = {"": value}
        elif isinstance(value, list):
            parts = {f"[{index}]": part for index, part in enumerate(value)}
        else:
            named = value.items() if isinstance(value, dict) else ()
            parts = {f".{key}": part for key, part in named}
        for step, part in parts.items():
            if isinstance(part, dict):
                yield f".{name}{step}", part
