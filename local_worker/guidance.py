"""What llguidance is told about a JSON schema beside the schema itself: its `x-guidance`. Pure."""

from __future__ import annotations

from typing import Any

ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is laid out: as Python writes it. Free white space costs tokens, hides what is forced,
and lets a model that is pushed off its way write line ends until max_tokens."""

_WHITE = " \n\r\t"


def with_guidance(schema: dict[str, Any], **more: bool) -> dict[str, Any]:
    """The schema with what is to be known about it; an `x-guidance` of its own comes first.

    Args:
        schema: a JSON schema.
        more: what to know beside the layout.

    Raises:
        ValueError: by its own wish the answer would be no JSON.
    """
    wish = schema.get("x-guidance")
    wanted: dict[str, Any] = ONE_LINE | more | (wish if isinstance(wish, dict) else {})
    for name, mark in (("item_separator", ","), ("key_separator", ":")):
        if not isinstance(wanted[name], str) or wanted[name].strip(_WHITE) != mark:
            raise ValueError(f"its {name} has to be {mark!r}, with white space")
    return {**schema, "x-guidance": wanted}
