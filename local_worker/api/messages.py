"""Messages as chat templates expect them. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_worker.api.translate import check_text, one_of
from local_worker.errors import InvalidParameterError
from local_worker.prompts import system_first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_worker.api.schemas import Message


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Content is one text, `developer` is `system`, a call's arguments are an object.

    Raises:
        InvalidParameterError: a role, part or message that cannot be served.
    """
    plain: list[dict[str, Any]] = []
    called: dict[str, str] = {}
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if message.role == "function":
            raise InvalidParameterError(
                f"'{place}.role' is 'function'; send the result of a call as role 'tool'",
                param=f"{place}.role",
            )
        entry: dict[str, Any] = {"role": message.role, "content": _text_of(message, place)}
        if message.role == "tool":
            entry |= _answered(message, called, place)
        elif message.tool_call_id is not None:
            raise InvalidParameterError(
                f"'{place}.tool_call_id' belongs in a message with role 'tool'",
                param=f"{place}.tool_call_id",
            )
        if message.tool_calls:
            entry["tool_calls"] = _calls_of(message, called, place)
        thought, _ = one_of(
            {
                f"{place}.reasoning_content": message.reasoning_content,
                f"{place}.reasoning": message.reasoning,
            }
        )
        if thought is not None:
            entry["reasoning_content"] = thought
        plain.append(entry)
    return system_first(plain)


def _answered(message: Message, called: dict[str, str], place: str) -> dict[str, str]:
    param = f"{place}.tool_call_id"
    if message.tool_call_id is None:
        raise InvalidParameterError(
            f"'{param}' is missing: it says which call this is the result of", param=param
        )
    name = called.get(message.tool_call_id)
    if name is None:
        raise InvalidParameterError(
            f"'{param}': no message before has a call with the id {message.tool_call_id!r}",
            param=param,
        )
    return {"tool_call_id": message.tool_call_id, "name": name}


def _calls_of(message: Message, called: dict[str, str], place: str) -> list[dict[str, Any]]:
    if message.role != "assistant":
        raise InvalidParameterError(
            f"'{place}.tool_calls' belong in a message with role 'assistant'",
            param=f"{place}.tool_calls",
        )
    calls = []
    for index, call in enumerate(message.tool_calls or ()):
        function = call.function
        arguments = _arguments_of(
            function.arguments, f"{place}.tool_calls[{index}].function.arguments"
        )
        if call.id is not None:
            called[call.id] = function.name
        check_text(function.name, f"{place}.tool_calls[{index}].function.name")
        calls.append(
            {
                "type": "function",
                "id": call.id or "",
                "function": {"name": function.name, "arguments": arguments},
            }
        )
    return calls


def _arguments_of(given: str | dict[str, Any], param: str) -> dict[str, Any]:
    """Templates write them member by member."""
    if isinstance(given, str) and not given.strip():
        return {}
    try:
        found = json.loads(given) if isinstance(given, str) else given
        written = json.dumps(found, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise InvalidParameterError(f"'{param}' is not valid JSON: {error}", param=param) from None
    if not isinstance(found, dict):
        raise InvalidParameterError(f"'{param}' must be a JSON object", param=param)
    check_text(written, param)
    return found


def _text_of(message: Message, place: str) -> str:
    content = message.content
    if content is None:
        if message.tool_calls:
            return ""
        raise InvalidParameterError(f"'{place}.content' is missing", param=f"{place}.content")
    texts = [content] if isinstance(content, str) else []
    for index, part in enumerate(content if isinstance(content, list) else []):
        if part.type not in ("text", "input_text") or part.text is None:
            raise InvalidParameterError(
                f"a part of type {part.type!r} cannot be served; only text can",
                param=f"{place}.content[{index}].type",
            )
        texts.append(part.text)
    for text in texts:
        check_text(text, f"{place}.content")
    return "\n".join(texts)
