"""What is asked of a tool's JSON schema, however odd it is. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema = dict[str, Any]

_MOST_REFERENCES = 16


def properties_of(schema: Mapping[str, Any]) -> dict[str, Schema]:
    """Its named members; what is no schema allows everything."""
    found = schema.get("properties")
    if not isinstance(found, dict):
        return {}
    return {key: part if isinstance(part, dict) else {} for key, part in found.items()}


def required_of(schema: Mapping[str, Any]) -> frozenset[str]:
    """Names of those that have to be there."""
    names = schema.get("required")
    named = names if isinstance(names, list) else []
    return frozenset(name for name in named if isinstance(name, str))


def texts_of(schema: Mapping[str, Any]) -> list[str] | None:
    """The texts that it chooses from, or None."""
    values = _values_of(schema)
    return values if values and all(isinstance(v, str) for v in values) else None


def types_of(
    schema: object, root: Mapping[str, Any] | None = None, depth: int = 0
) -> frozenset[str]:
    """The types that a schema names; empty where it names none.

    Args:
        schema: of a value.
        root: in which its references are.
        depth: of references so far.
    """
    if not isinstance(schema, dict) or depth > _MOST_REFERENCES:
        return frozenset()
    if isinstance(reference := schema.get("$ref"), str):
        return types_of(referred(reference, root or {}), root, depth + 1)
    if isinstance(named := schema.get("type"), str | list):
        return frozenset([named] if isinstance(named, str) else map(str, named))
    if (values := _values_of(schema)) is not None:
        return frozenset().union(*map(type_of, values))
    parts = schema.get("anyOf") or schema.get("oneOf")
    kinds = [types_of(p, root, depth + 1) for p in parts] if isinstance(parts, list) else []
    return frozenset().union(*kinds) if all(kinds) else frozenset()


def type_of(value: object) -> frozenset[str]:
    """The types that a JSON value is of."""
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int):
        return frozenset({"integer", "number"})
    if isinstance(value, float):
        return frozenset({"number", "integer"} if value.is_integer() else {"number"})
    names = {str: "string", type(None): "null", list: "array", dict: "object"}
    return frozenset({names[type(value)]})


def referred(reference: str, root: Mapping[str, Any]) -> Schema:
    """The schema at a local reference; empty where there is none."""
    target: Any = root
    for step in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
        target = target.get(step) if isinstance(target, dict) else None
    return target if isinstance(target, dict) else {}


def _values_of(schema: Mapping[str, Any]) -> list[Any] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None
