"""Request bodies. Strict: a number is no string; a field that would be ignored is refused.

Fields of OpenAI's API, and of vLLM's and llama-server's under their own names. What would change
the result and is not served here is refused by name; what changes nothing is ignored.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from local_worker.errors import InvalidParameterError

IGNORED = frozenset(
    {
        "user", "metadata", "store", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "cache_prompt", "id_slot", "timings_per_token", "return_progress",
        "request_id", "include_reasoning", "stream_include_usage",
    }
)  # fmt: skip
"""Fields without an influence on the text: taken and not looked at."""

UNSUPPORTED = {
    "functions": "functions (send them as 'tools')",
    "function_call": "functions (send 'tools' and 'tool_choice')",
    "guided_decoding_backend": "another grammar engine", "structural_tag": "a structural tag",
    "whitespace_pattern": "its own white space", "guided_whitespace_pattern": "its own white space",
    "disable_any_whitespace": "its own white space",
    "audio": "audio output", "web_search_options": "web search",
    "prediction": "predicted output", "suffix": "filling in the middle",
    "image_url": "an image (only text is served, and no URL is ever fetched)",
    "input_audio": "audio", "video_url": "a video", "file": "a file",
}  # fmt: skip

B = TypeVar("B", bound="Body")
T = TypeVar("T")
INT64 = 2**63
_SHOWN_CHARACTERS = 80
_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "list", "dict", "NamedTool"})
"""Names of union members, which pydantic puts into an error's path."""
Text = Annotated[str, Field(strict=True)]
# Without it, a list of a million wrong items costs a million error objects.
FailFast = Annotated[list[T], Field(fail_fast=True)]
MaxTokens = Annotated[int, Field(ge=1, lt=INT64)]


class Body(BaseModel):
    """Base of every request body."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: object) -> object:
        """OpenAI's clients send null for what was left out."""
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False


class ContentPart(Body):
    """A part of a message's content; only text is served."""

    type: Text
    text: Text | None = None


class FunctionCall(Body):
    """What was called: the arguments are a JSON object, as a text or as it is."""

    name: Text
    arguments: Text | dict[str, Any] = ""


class ToolCall(Body):
    """A call in an assistant's message."""

    id: Text | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class Message(Body):
    """One chat message."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | FailFast[ContentPart] | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    tool_calls: FailFast[ToolCall] | None = None
    tool_call_id: Text | None = None


class FunctionDefinition(Body):
    """A function that the model may call."""

    name: Text
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Body):
    """A tool; only functions are served."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    """The name of one."""

    name: Text


class NamedTool(Body):
    """A `tool_choice` that leaves no choice."""

    type: Literal["function"]
    function: NamedFunction


class Reasoning(Body):
    """The `reasoning` object of newer OpenAI-style clients."""

    effort: Text | None = None
    max_tokens: int | None = Field(None, lt=INT64)


class Thinking(Body):
    """The `thinking` object of Anthropic-style clients."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, lt=INT64)


class JsonSchema(Body):
    """OpenAI's wrapper around a JSON schema. It is always followed, `strict` or not."""

    name: Text | None = None
    description: Text | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(Body):
    """OpenAI's `response_format`, and llama-server's schema beside `json_object`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class StructuredOutputs(Body):
    """vLLM's `structured_outputs`: one of its members."""

    json_: dict[str, Any] | Text | None = Field(None, alias="json")
    regex: Text | None = None
    choice: FailFast[Text] | None = None
    grammar: Text | None = None
    json_object: bool | None = None


class GenerationBody(Body):
    """What chat and text completions have in common."""

    model: Text | None = None
    n: int = Field(1, ge=1, lt=INT64)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    min_tokens: int = Field(0, ge=0, lt=INT64)
    ignore_eos: bool = False
    stop: Text | FailFast[Text] | None = None
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repeat_penalty: float | None = Field(None, ge=0.01, le=10)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    logit_bias: dict[str, float] | None = None
    cache_salt: Text | None = None
    include_cost: bool | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | Text | None = None
    guided_regex: Text | None = None
    guided_choice: FailFast[Text] | None = None
    guided_grammar: Text | None = None
    json_schema: dict[str, Any] | None = None
    grammar: Text | None = None


class ChatBody(GenerationBody):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    metadata: dict[str, Any] | None = None
    prompt_cache_key: Text | None = None
    reasoning_effort: Text | None = None
    reasoning: Reasoning | None = None
    thinking: Thinking | None = None
    reasoning_budget_tokens: int | None = Field(None, lt=INT64)
    thinking_budget: int | None = Field(None, lt=INT64)
    thinking_token_budget: int | None = Field(None, lt=INT64)
    thinking_budget_tokens: int | None = Field(None, lt=INT64)
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    early_exit: bool | None = None
    tools: FailFast[ToolDefinition] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None


class CompletionBody(GenerationBody):
    """Body of POST /v1/completions."""

    prompt: Text | FailFast[Text] | FailFast[int] | FailFast[FailFast[int]]
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = Field(None, ge=1, lt=INT64)


class TokenizeBody(Body):
    """Body of POST /tokenize: a text under vLLM's or llama-server's name, or messages."""

    model: Text | None = None
    prompt: Text | None = None
    content: Text | None = None
    messages: FailFast[Message] | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None


class DetokenizeBody(Body):
    """Body of POST /detokenize."""

    model: Text | None = None
    tokens: list[int] = Field(fail_fast=True)


def parse(kind: type[B], data: bytes) -> B:
    """Reads a request body.

    Raises:
        InvalidParameterError: not JSON, a wrong type or value, or a field that is not served.
    """
    try:
        # The standard library's parser, since it lets unpaired surrogates through: the schema then
        # says which field has them.
        raw = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidParameterError(f"the request body is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidParameterError("the request body must be a JSON object")
    try:
        body = kind.model_validate(raw)
    except ValidationError as error:
        raise _explain(error) from None
    _refuse_unknown(body, "")
    return body


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _explain(error: ValidationError) -> InvalidParameterError:
    """The first complaint that is about the value given, in words and with the field's path."""
    details = error.errors(include_url=False, include_context=False)
    detail = max(details, key=lambda d: len(d["loc"]) if d["type"] != "missing" else 0)
    param = ""
    for part in detail["loc"]:
        if isinstance(part, int):
            param += f"[{part}]"
        elif part.isidentifier() and part not in _TYPE_NAMES:
            param += f".{part}" if param else part
    given = "" if detail["type"] == "missing" else f" (given: {_shorten(detail['input'])})"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    if detail["type"] == "string_unicode":
        message = "has an unpaired surrogate; send valid Unicode"
    return InvalidParameterError(f"'{param}': {message}{given}", param=param or None)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _refuse_unknown(body: Body, path: str) -> None:
    for name, value in (body.model_extra or {}).items():
        if (not path and name in IGNORED) or _says_nothing(name, value):
            continue
        if name in UNSUPPORTED:
            raise InvalidParameterError(
                f"'{path}{name}' asks for {UNSUPPORTED[name]}, which this version does not have",
                param=path + name,
            )
        raise InvalidParameterError(
            f"'{path}{name}' is not known here; leave it out if it does not matter",
            param=path + name,
        )
    for name, value in body:
        values = value if isinstance(value, list) else [value]
        for index, item in enumerate(values):
            if isinstance(item, Body):
                place = f"{name}[{index}]" if isinstance(value, list) else name
                _refuse_unknown(item, f"{path}{place}.")


def _says_nothing(name: str, value: object) -> bool:
    """Values that only spell out what happens anyway."""
    return (
        value in ([], {})
        or name in ("name", "refusal", "annotations", "continuous_usage_stats")
        or (name == "modalities" and value == ["text"])
    )
