"""What a turn with tools may look like, as a grammar in llguidance's Lark. Pure.

Text is free until a call begins, which only its own control token can do; from there on the call
follows the family's layout and the tool's schema.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_worker.guidance import with_guidance
from local_worker.toolcalls.notation import Notation, gemma_arguments, qwen_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from local_worker.toolcalls.events import Tool

LENIENT = {"lenient": True, "coerce_one_of": True}
"""For schemas that a client does not insist on: what cannot be followed in them is left out."""


@dataclass(frozen=True, slots=True)
class MayCall:
    """Which calls there may be in a turn.

    Attributes:
        tools: that may be called.
        must_call: whether there has to be a call, and nothing else.
        parallel: whether there may be several.
        answer: a JSON schema for a turn without calls; None leaves its text free.
    """

    tools: tuple[Tool, ...]
    must_call: bool = False
    parallel: bool = True
    answer: dict[str, Any] | None = None


CONTROL = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "qwen-xml": ("<tool_call>", "</tool_call>"),
    "gemma": ("<|tool_call>", "<tool_call|>", '<|"|>'),
    "mistral": ("[TOOL_CALLS]", "[ARGS]"),
}
"""Spellings that are tokens of their own in a family's vocabulary. A layout that is not here is
read, and not held to a grammar: harmony's calls begin in a header of their own."""


def grammar_of(layout: str, may_call: MayCall, token_ids: Mapping[str, Sequence[int]]) -> str:
    """The grammar of a turn, as Lark.

    Args:
        layout: a key of `CONTROL`.
        may_call: which calls there may be.
        token_ids: of the layout's control spellings in the loaded model.

    Raises:
        ValueError: a schema's own wish would make something else of its JSON.
        LayoutError: a parameter has a name that the layout cannot hold.
    """
    terminals = {spelling: _terminal(spelling, ids) for spelling, ids in token_ids.items()}
    notation = Notation(terminals)
    calls = [_CALLS[layout](tool, notation) for tool in may_call.tools]
    more = "(WS call)*" if may_call.parallel else ""
    start = f"call {more}"
    if not may_call.must_call:
        answer = may_call.answer
        start = f"TEXT ({start})?" if answer is None else f"answer | {start}"
        notation.rules.append(f"answer: %json {json.dumps(with_guidance(answer or {}))}")
    rules = [
        f"start: {start}",
        "TEXT: /(.|\\n)*/",
        "WS: /[ \\n]*/",
        "call: " + " | ".join(calls),
        *notation.rules,
    ]
    source = "%llguidance {}\n" + "\n".join(rules) + "\n"
    return source.replace("::=", ":\\u003a=")  # in texts; it would make the grammar look like GBNF


def _terminal(spelling: str, ids: Sequence[int]) -> str:
    return f"<[{ids[0]}]>" if len(ids) == 1 else json.dumps(spelling)


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The tool's schema with what llguidance is to know about it.

    Raises:
        ValueError: by the schema's own wish the arguments would be no JSON.
    """
    own = tool.parameters or {"properties": {}}
    return with_guidance({"type": "object", **own}, **({} if tool.strict else LENIENT))


def _json(tool: Tool) -> str:
    return f"%json {json.dumps(arguments_schema(tool))}"


def _hermes(tool: Tool, notation: Notation) -> str:
    start, end = notation.terminals["<tool_call>"], notation.terminals["</tool_call>"]
    header = json.dumps(f'\n{{"name": {json.dumps(tool.name)}, "arguments": ')
    return notation.rule(f'{start} {header} {_json(tool)} "}}\\n" {end}')


def _mistral(tool: Tool, notation: Notation) -> str:
    start, arguments = notation.terminals["[TOOL_CALLS]"], notation.terminals["[ARGS]"]
    return notation.rule(f"{start} {json.dumps(tool.name)} {arguments} {_json(tool)}")


def _qwen_xml(tool: Tool, notation: Notation) -> str:
    start, end = notation.terminals["<tool_call>"], notation.terminals["</tool_call>"]
    header = json.dumps(f"\n<function={tool.name}>\n")
    parameters = qwen_parameters(arguments_schema(tool), notation)
    return notation.rule(f'{start} {header} {parameters} "</function>\\n" {end}')


def _gemma(tool: Tool, notation: Notation) -> str:
    start, end = notation.terminals["<|tool_call>"], notation.terminals["<tool_call|>"]
    arguments = gemma_arguments(arguments_schema(tool), notation)
    return notation.rule(f"{start} {json.dumps(f'call:{tool.name}')} {arguments} {end}")


_CALLS: dict[str, Callable[[Tool, Notation], str]] = {
    "hermes": _hermes,
    "mistral": _mistral,
    "qwen-xml": _qwen_xml,
    "gemma": _gemma,
}
