"""From the many ways of asking for an answer of a certain form to one grammar. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_worker.errors import InvalidParameterError
from local_worker.types import Grammar, GrammarKind

if TYPE_CHECKING:
    from local_worker.api.schemas import GenerationBody

MAX_SOURCE_CHARACTERS = 128 << 10
"""Of one schema, expression, list of choices or grammar. OpenAI takes 120,000 characters of names
and values in a schema (its guide to structured outputs). Streams wait while one is read."""


def asked_grammar(body: GenerationBody) -> Grammar | None:
    """What the answer must look like; None where the request leaves that to the model.

    Raises:
        InvalidParameterError: two fields ask for a form, or one asks for it in a wrong way.
    """
    found = [g for g in (*_of_response_format(body), *_of_vllm(body), *_of_llama(body)) if g]
    if not found:
        return None
    first, *others = found
    if others:
        raise InvalidParameterError(
            f"'{first.field}' and '{others[0].field}' both say what the answer must look like; "
            "send one of them",
            param=others[0].field,
        )
    if len(first.source) > MAX_SOURCE_CHARACTERS:
        raise InvalidParameterError(
            f"'{first.field}' has {len(first.source)} characters; at most {MAX_SOURCE_CHARACTERS} "
            "are taken",
            param=first.field,
        )
    for name in ("min_tokens", "ignore_eos"):
        if getattr(body, name):
            raise InvalidParameterError(
                f"'{name}' and '{first.field}' contradict each other: the answer ends where its "
                "form is complete",
                param=name,
            )
    return first


def _of_response_format(body: GenerationBody) -> list[Grammar | None]:
    wish = body.response_format
    if wish is None or wish.type == "text":
        return []
    if wish.type == "json_object":  # llama-server takes a schema beside it
        schema = {"type": "object"} if wish.schema_ is None else wish.schema_
        return [_json(schema, "response_format.schema" if wish.schema_ else "response_format")]
    if wish.json_schema is None:
        raise InvalidParameterError(
            "'response_format' of type json_schema needs 'json_schema': {\"schema\": ...}",
            param="response_format.json_schema",
        )
    if wish.json_schema.schema_ is None:
        raise InvalidParameterError(
            "'response_format.json_schema' needs a 'schema'",
            param="response_format.json_schema.schema",
        )
    return [_json(wish.json_schema.schema_, "response_format.json_schema.schema")]


def _of_vllm(body: GenerationBody) -> list[Grammar | None]:
    found = [
        _json(body.guided_json, "guided_json"),
        _text(GrammarKind.REGEX, body.guided_regex, "guided_regex"),
        _choice(body.guided_choice, "guided_choice"),
        _text(GrammarKind.GRAMMAR, body.guided_grammar, "guided_grammar"),
    ]
    wish = body.structured_outputs
    if wish is not None:
        path = "structured_outputs"
        found += [
            _json(wish.json_, f"{path}.json"),
            _text(GrammarKind.REGEX, wish.regex, f"{path}.regex"),
            _choice(wish.choice, f"{path}.choice"),
            _text(GrammarKind.GRAMMAR, wish.grammar, f"{path}.grammar"),
            _json({"type": "object"} if wish.json_object else None, f"{path}.json_object"),
        ]
    return found


def _of_llama(body: GenerationBody) -> list[Grammar | None]:
    return [
        _json(body.json_schema, "json_schema"),
        _text(GrammarKind.GRAMMAR, body.grammar, "grammar"),
    ]


def _json(schema: dict[str, Any] | str | None, field: str) -> Grammar | None:
    if schema is None:
        return None
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise InvalidParameterError(
                f"'{field}' is not valid JSON: {error}", param=field
            ) from None
    if not isinstance(schema, dict):
        raise InvalidParameterError(f"'{field}' must be a JSON schema: an object", param=field)
    try:
        return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema), field)
    except RecursionError:
        raise InvalidParameterError(f"'{field}' is nested too deeply", param=field) from None


def _text(kind: GrammarKind, source: str | None, field: str) -> Grammar | None:
    if source is None:
        return None
    if not source.strip():
        raise InvalidParameterError(f"'{field}' is empty", param=field)
    return Grammar(kind, source, field)


def _choice(texts: list[str] | None, field: str) -> Grammar | None:
    if texts is None:
        return None
    if not texts:
        raise InvalidParameterError(f"'{field}' has nothing to choose from", param=field)
    return Grammar(GrammarKind.CHOICE, json.dumps(texts), field)
