"""A parser by the catalog's name for the layout."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from local_worker.toolcalls.gemma import GemmaCalls
from local_worker.toolcalls.json_calls import HARMONY, HERMES, MISTRAL, JsonCalls
from local_worker.toolcalls.qwen_xml import QwenXmlCalls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_worker.toolcalls.events import CallParser, Tool

_JSON = {"hermes": HERMES, "mistral": MISTRAL, "harmony": HARMONY}


def layout_of(template: str) -> str | None:
    """The layout that a chat template writes calls in; None where it knows no tools."""
    signs = {
        "<|tool_call>": "gemma",
        "to=functions": "harmony",
        "[TOOL_CALLS]": "mistral",
        "<function=": "qwen-xml",
        "<tool_call>": "hermes",
    }
    if re.search(r"\btools\b", template) is None:
        return None
    return next((name for sign, name in signs.items() if sign in template), None)


def parser_of(name: str, tools: Mapping[str, Tool], *, streams: bool) -> CallParser:
    """A parser for one turn.

    Args:
        name: of the layout.
        tools: by their names.
        streams: whether arguments are given out while they are written; they cannot be taken back.
    """
    if name in _JSON:
        return JsonCalls(_JSON[name], streams=streams)
    if name == "gemma":
        return GemmaCalls(streams=streams)
    assert name == "qwen-xml", name
    return QwenXmlCalls(tools, streams=streams)
