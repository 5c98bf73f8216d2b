"""Tools over HTTP: what a request offers, and calls as OpenAI's objects."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from local_worker.api.grammar import MAX_SOURCE_CHARACTERS
from local_worker.api.translate import check_text
from local_worker.errors import InvalidParameterError
from local_worker.toolcalls.events import Arguments, Begun, Tool
from local_worker.toolcalls.formats import parser_of
from local_worker.toolcalls.grammars import MayCall, arguments_schema, grammar_of
from local_worker.toolcalls.notation import LayoutError
from local_worker.types import Grammar, GrammarKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_worker.api.model import ToolLayout
    from local_worker.api.schemas import ChatBody
    from local_worker.api.state import ApiState
    from local_worker.toolcalls.events import CallParser, Event

Json = dict[str, Any]

MOST_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of a request.

    Attributes:
        layout: how the model writes calls.
        tools: by their names.
        shown: the same as the template gets them.
        grammar: of the whole answer, calls or not; None where calls are only read.
    """

    layout: ToolLayout
    tools: Mapping[str, Tool]
    shown: tuple[Json, ...]
    grammar: Grammar | None

    def reader(self) -> CallReader:
        """For one choice."""
        streams = self.grammar is not None
        return CallReader(parser_of(self.layout.name, self.tools, streams=streams))


async def offered(state: ApiState, body: ChatBody, answer: Grammar | None) -> Offer | None:
    """What the model may call, seen to be something that its answers can follow.

    Args:
        state: of the server.
        body: the request.
        answer: the form of an answer that calls nothing.

    Raises:
        InvalidParameterError: a tool or choice that cannot be served.
    """
    if not body.tools or body.tool_choice == "none":
        _check_choice(body)
        return None
    layout = state.model.tools
    if layout is None:
        raise InvalidParameterError(
            "this model's chat template has no place for tools", param="tools"
        )
    tools = _tools_of(body)
    may_call = _may_call(body, tools)
    shown = tuple(
        definition.model_dump(exclude_none=True, exclude={"function": {"strict"}})
        for definition in body.tools
    )
    if not layout.held:
        if may_call.must_call or answer is not None:
            field = answer.field if answer is not None else "tool_choice"
            raise InvalidParameterError(
                f"'{field}' together with 'tools' cannot be served for this model: its calls are "
                "read, and not held to a form",
                param=field,
            )
        return Offer(layout, tools, shown, None)
    grammar = _grammar(body, layout, may_call, answer)
    await _check(state, grammar, tuple(tools.values()))
    return Offer(layout, tools, shown, grammar)


def _tools_of(body: ChatBody) -> dict[str, Tool]:
    definitions = body.tools or []
    if len(definitions) > MOST_TOOLS:
        raise InvalidParameterError(
            f"{len(definitions)} tools; at most {MOST_TOOLS} are taken", param="tools"
        )
    tools: dict[str, Tool] = {}
    for index, definition in enumerate(definitions):
        place, function = f"tools[{index}].function", definition.function
        if _NAME.fullmatch(function.name) is None:
            raise InvalidParameterError(
                f"'{place}.name' must be 1 to 64 letters, digits, '_', '-' or '.' (given: "
                f"{function.name[:80]!r})",
                param=f"{place}.name",
            )
        if function.name in tools:
            raise InvalidParameterError(
                f"'{place}.name': there is another tool named {function.name!r}",
                param=f"{place}.name",
            )
        check_text(json.dumps(function.model_dump(), ensure_ascii=False), place)
        parameters = function.parameters or {}
        if parameters.get("type", "object") != "object":
            raise InvalidParameterError(
                f"'{place}.parameters' must be a JSON schema of type 'object'",
                param=f"{place}.parameters.type",
            )
        tools[function.name] = Tool(function.name, parameters, bool(function.strict))
    return tools


def _check_choice(body: ChatBody) -> None:
    if not body.tools and body.tool_choice not in (None, "none", "auto"):
        raise InvalidParameterError("'tool_choice' needs 'tools'", param="tool_choice")


def _may_call(body: ChatBody, tools: Mapping[str, Tool]) -> MayCall:
    choice, parallel = body.tool_choice, body.parallel_tool_calls is not False
    every = tuple(tools.values())
    if choice is None or isinstance(choice, str):
        return MayCall(every, must_call=choice == "required", parallel=parallel)
    name = choice.function.name
    if name not in tools:
        raise InvalidParameterError(
            f"'tool_choice' names {name!r}, which is none of the tools: {', '.join(tools)}",
            param="tool_choice.function.name",
        )
    return MayCall((tools[name],), must_call=True, parallel=False)


def _grammar(
    body: ChatBody, layout: ToolLayout, may_call: MayCall, answer: Grammar | None
) -> Grammar:
    for name in ("min_tokens", "ignore_eos"):
        if getattr(body, name):
            raise InvalidParameterError(
                f"'{name}' and 'tools' contradict each other: a call ends where it is complete",
                param=name,
            )
    schema = None
    if answer is not None:
        if answer.kind is not GrammarKind.JSON_SCHEMA:
            raise InvalidParameterError(
                f"'{answer.field}' and 'tools' cannot be served together; a JSON schema can",
                param=answer.field,
            )
        schema = json.loads(answer.source)
    try:
        source = grammar_of(layout.name, replace(may_call, answer=schema), layout.token_ids)
    except RecursionError:
        raise InvalidParameterError("'tools' are nested too deeply", param="tools") from None
    except LayoutError as error:
        raise InvalidParameterError(
            f"this model cannot write a parameter named {str(error)[:80]!r}; give it another name",
            param="tools",
        ) from None
    except ValueError as error:
        raise InvalidParameterError(
            f"the 'x-guidance' of a schema cannot be followed: {error}", param="tools"
        ) from None
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise InvalidParameterError(
            f"the tools make a grammar of {len(source)} characters; at most "
            f"{MAX_SOURCE_CHARACTERS} are taken",
            param="tools",
        )
    return Grammar(GrammarKind.LARK, source, "tools")


async def _check(state: ApiState, grammar: Grammar, tools: tuple[Tool, ...]) -> None:
    """All tools at once; where that fails, one by one, for the one at fault."""
    try:
        await state.engine.check(grammar)
    except InvalidParameterError:
        for index, tool in enumerate(tools):
            place = f"tools[{index}].function.parameters"
            schema = json.dumps(arguments_schema(tool))
            await state.engine.check(Grammar(GrammarKind.JSON_SCHEMA, schema, place))
        raise


class CallReader:
    """Calls of one choice, while they are written.

    Attributes:
        calls: as OpenAI has them in a message.
        malformed: whether something was meant as a call and is none.
    """

    def __init__(self, parser: CallParser) -> None:
        self._parser = parser
        self.calls: list[Json] = []
        self.malformed = False
        self._held = ""

    def show(self, text: str) -> str:
        """More text beside calls. Returns what can be shown: line ends between calls are not."""
        text = self._held + text
        shown = text.rstrip()
        self._held = text[len(shown) :]
        return shown

    def rest(self) -> str:
        """What was not shown and is text after all, since no call has followed it."""
        return "" if self.calls else self._held

    def feed(self, text: str) -> list[Json]:
        """More text of calls. Returns deltas of a message."""
        return self._deltas(self._parser.feed(text))

    def end(self) -> list[Json]:
        """There is no more."""
        return self._deltas(self._parser.end())

    def finish_reason(self, reason: str) -> str:
        """Why the choice ended, as OpenAI says it; `malformed_tool_call` is our own word."""
        if reason != "stop" or not (self.calls or self.malformed):
            return reason
        return "malformed_tool_call" if self.malformed else "tool_calls"

    def _deltas(self, events: list[Event]) -> list[Json]:
        deltas = [self._delta(event) for event in events]
        return [delta for delta in deltas if delta.get("content") != ""]

    def _delta(self, event: Event) -> Json:
        if isinstance(event, Begun):
            function = {"name": event.name, "arguments": ""}
            call = {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
            self.calls.append(call)
            shown = {"index": len(self.calls) - 1, **call, "function": {**function}}
            return {"tool_calls": [shown]}
        if isinstance(event, Arguments):
            self.calls[-1]["function"]["arguments"] += event.text
            return {
                "tool_calls": [
                    {"index": len(self.calls) - 1, "function": {"arguments": event.text}}
                ]
            }
        self.malformed = True
        return {"content": event.text}
