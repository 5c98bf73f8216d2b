"""Chat messages to prompt text, through the model file's own template in jinja2's sandbox.

What people write is text and nothing else: a control token's spelling inside a message (say
`<|im_end|>`, or `</think>`) must not act as the token. Such spellings are taken out before the
template runs and put back as segments in which the tokenizer cannot see them whole.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from local_worker.errors import InvalidParameterError, ModelFileError
from local_worker.types import PromptSegment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Message = dict[str, Any]

_TEMPLATE_ERRORS = (
    jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError,
    RecursionError,
)  # fmt: skip
"""What a template can raise over messages and variables that it did not expect."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: jinja2 text.
        bos_token: for templates that write it themselves.
        eos_token: likewise.
        control_tokens: spellings that must not act as tokens when a person writes them.
        delimiters: those of thoughts and tool calls. An assistant's message, the model's own words
            coming back, may hold them; from anybody else they are text, too.

    Raises:
        ModelFileError: the source is not a template.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        control_tokens: Iterable[str] = (),
        delimiters: Iterable[str] = (),
    ) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
            bos_token=bos_token,
            eos_token=eos_token,
        )
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelFileError(f"the model's chat template does not parse: {error}") from error
        self._guard = _Guard(frozenset(control_tokens), frozenset(delimiters))
        self._results_in_calls = "tool_responses" in source

    def render(
        self,
        messages: Sequence[Message],
        variables: Mapping[str, object] | None = None,
        *,
        tools: Sequence[Mapping[str, object]] = (),
        generation_prompt: bool = True,
    ) -> tuple[PromptSegment, ...]:
        """The prompt up to and including the generation prompt, unless that is left out.

        Args:
            messages: with roles that the template knows; calls have objects as arguments.
            variables: for the template.
            tools: that the model is told about.
            generation_prompt: whether it ends with that.

        Raises:
            InvalidParameterError: the template refuses these messages.
        """
        if self._results_in_calls:
            messages = results_in_calls(messages)
        try:
            guarded = [self._guard.hide(message) for message in messages]
            offered = {"tools": [self._guard.hide_people(tool) for tool in tools]} if tools else {}
            text = self._template.render(
                {
                    **(variables or {}),
                    **offered,
                    "messages": guarded,
                    "add_generation_prompt": generation_prompt,
                }
            )
            text.encode()
        except _TEMPLATE_ERRORS as error:
            raise InvalidParameterError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        return tuple(self._guard.reveal(text))


def closed_thought(prompt: Sequence[PromptSegment], start: str, close: str) -> PromptSegment:
    """What has to follow a prompt so that the answer begins at once.

    Args:
        prompt: rendered for an answer with a thought, opened or not.
        start: text that opens one.
        close: text that closes it.
    """
    return PromptSegment(close if opens_thought(prompt, start) else start + close)


def opens_thought(prompt: Sequence[PromptSegment], start: str) -> bool:
    """Whether the template left a thought open at the end of the prompt."""
    return (
        bool(prompt) and prompt[-1].special and (prompt[-1].text.rstrip().endswith(start.rstrip()))
    )


_DATA = ("tool_calls", "tool_responses")


class _Guard:
    """Takes control-token spellings out of people's messages, and back as harmless segments."""

    def __init__(self, control_tokens: frozenset[str], delimiters: frozenset[str]) -> None:
        self._for_people = _any_of(control_tokens | delimiters)
        self._for_assistants = _any_of(control_tokens - delimiters)
        self._nonce = secrets.token_hex(8)
        # Templates write some words in capitals.
        self._marker = re.compile(f"\ue000{self._nonce}:([0-9a-f]*)\ue001", re.IGNORECASE)

    def hide(self, message: Message) -> Message:
        own_words = message.get("role") == "assistant"
        pattern = self._for_assistants if own_words else self._for_people
        return {
            # Calls and their results are data, in which nothing is structure.
            key: self.hide_people(value) if key in _DATA else self._hide_value(value, pattern)
            for key, value in message.items()
        }

    def hide_people(self, value: object) -> object:
        """What people write, however it is nested."""
        return self._hide_value(value, self._for_people)

    def _hide_value(self, value: object, pattern: re.Pattern[str] | None) -> object:
        if pattern is None:
            return value
        if isinstance(value, str):
            return pattern.sub(self._mark, value)
        if isinstance(value, list):
            return [self._hide_value(item, pattern) for item in value]
        if isinstance(value, dict):
            return {
                self._hide_value(key, pattern): self._hide_value(item, pattern)
                for key, item in value.items()
            }
        return value

    def _mark(self, match: re.Match[str]) -> str:
        # As hex, so that no filter of a template (trim, upper, split) can bring it to life.
        return f"\ue000{self._nonce}:{match[0].encode().hex()}\ue001"

    def reveal(self, text: str) -> Iterable[PromptSegment]:
        start = 0
        for match in self._marker.finditer(text):
            if match.start() > start:
                yield PromptSegment(text[start : match.start()])
            spelling = bytes.fromhex(match[1]).decode()
            # Some tokenizers read a few control tokens even in plain text: never show one whole.
            yield PromptSegment(spelling[0], special=False)
            yield PromptSegment(spelling[1:], special=False)
            start = match.end()
        if start < len(text):
            yield PromptSegment(text[start:])


def _any_of(spellings: frozenset[str]) -> re.Pattern[str] | None:
    longest_first = sorted((s for s in spellings if len(s) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _to_json(value: object, indent: int | None = None, **options: object) -> str:
    """Like the filter that templates are written for: no HTML escapes, and Unicode as it is."""
    ensure_ascii = bool(options.get("ensure_ascii", False))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().astimezone().strftime(pattern)


def results_in_calls(messages: Sequence[Message]) -> list[Message]:
    """Results of calls as part of the message that called: Gemma 4's turn goes on after them."""
    merged: list[Message] = []
    for message in messages:
        if message.get("role") == "tool" and merged and merged[-1].get("tool_calls"):
            result = {"name": message.get("name", ""), "response": message["content"]}
            before = merged[-1].get("tool_responses", [])
            merged[-1] = {**merged[-1], "tool_responses": [*before, result]}
        else:
            merged.append(message)
    return merged


def system_first(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """OpenAI's `developer` role is what local templates call `system`."""
    return [
        {**message, "role": "system"} if message.get("role") == "developer" else dict(message)
        for message in messages
    ]
