"""From request bodies to what the engine needs. Pure: the served model's facts in, values out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from local_worker.errors import ContextLengthError, InvalidParameterError
from local_worker.reasoning.effort import EffortRequest
from local_worker.types import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_worker.api.schemas import ChatBody, GenerationBody
    from local_worker.catalog.schema import Sampling, ThinkingSpec
    from local_worker.types import EngineInfo

T = TypeVar("T")

MAX_STOP_STRINGS = 64
MAX_LOGIT_BIAS = 1024
"""What vLLM's GPU runner takes; its engine would end on more."""

MAX_SEED = 2**32 - 1
"""llama.cpp's seeds have 32 bits, and the highest of them asks for a random one."""

RESERVED_TEMPLATE_VARIABLES = frozenset(
    {
        "messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token",
        "raise_exception", "strftime_now", "range", "dict", "lipsum", "cycler", "joiner",
        "namespace", "thinking_budget", "reasoning_budget_tokens",
    }
)  # fmt: skip
"""What the server or the template language sets; a budget has fields of its own."""

MAX_STOP_CHARACTERS = 1024
MAX_TOKEN_ID_DIGITS = 10


@dataclass(frozen=True, slots=True)
class AskedEffort:
    """The client's wish, and the field it came in (None where it said nothing)."""

    request: EffortRequest
    field: str | None


def asked_effort(body: ChatBody) -> AskedEffort:
    """Collects what the request says about thinking, under whichever name.

    Raises:
        InvalidParameterError: two fields say different things.
    """
    effort, effort_field = one_of(
        {
            "reasoning_effort": body.reasoning_effort,
            "reasoning.effort": body.reasoning.effort if body.reasoning else None,
            "thinking.type": _thinking_level(body),
            "chat_template_kwargs.reasoning_effort": _kwarg(body, "reasoning_effort", str),
        }
    )
    budget, budget_field = one_of(
        {
            "reasoning_budget_tokens": body.reasoning_budget_tokens,
            "thinking_budget": body.thinking_budget,
            "thinking_token_budget": body.thinking_token_budget,
            "thinking_budget_tokens": body.thinking_budget_tokens,
            "reasoning.max_tokens": body.reasoning.max_tokens if body.reasoning else None,
            "thinking.budget_tokens": body.thinking.budget_tokens if body.thinking else None,
        }
    )
    switch, switch_field = one_of(
        {
            "enable_thinking": body.enable_thinking,
            "chat_template_kwargs.enable_thinking": _kwarg(body, "enable_thinking", bool),
            "chat_template_kwargs.thinking": _kwarg(body, "thinking", bool),
            "thinking.type": _thinking_switch(body),
        }
    )
    request = EffortRequest(
        effort=effort,
        effort_field=effort_field or "reasoning_effort",
        budget=budget,
        budget_field=budget_field or "reasoning_budget_tokens",
        enable_thinking=switch,
    )
    return AskedEffort(request, budget_field or effort_field or switch_field)


def one_of(fields: dict[str, Any]) -> tuple[Any, str | None]:
    """What fields that mean the same say, and the first one that says it.

    Raises:
        InvalidParameterError: they say different things.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    names = list(given)
    for name in names[1:]:
        if given[name] != given[names[0]]:
            raise InvalidParameterError(
                f"'{names[0]}' and '{name}' say different things; send one of them", param=name
            )
    return (given[names[0]], names[0]) if names else (None, None)


def _thinking_level(body: ChatBody) -> str | None:
    return "auto" if body.thinking is not None and body.thinking.type == "adaptive" else None


def _thinking_switch(body: ChatBody) -> bool | None:
    if body.thinking is None or body.thinking.type == "adaptive":
        return None
    return body.thinking.type == "enabled"


EFFORT_VARIABLES = ("enable_thinking", "thinking", "reasoning_effort")
"""Template variables that say something about effort: read as such, and set by the server."""


def _kwarg(body: ChatBody, name: str, kind: type[T]) -> T | None:
    value = (body.chat_template_kwargs or {}).get(name)
    if value is None or isinstance(value, kind):
        return value
    words = "true or false" if kind is bool else "a text"
    param = f"chat_template_kwargs.{name}"
    raise InvalidParameterError(f"'{param}' must be {words}", param=param)


def template_variables(
    body: ChatBody, spec: ThinkingSpec | None, level: str, *, thinking: bool
) -> dict[str, Any]:
    """Variables for the chat template: the client's own, then those that carry the effort."""
    variables = dict(body.chat_template_kwargs or {})
    reserved = RESERVED_TEMPLATE_VARIABLES & variables.keys()
    if reserved:
        name = min(reserved)
        raise InvalidParameterError(
            f"'chat_template_kwargs.{name}' is set by the server; leave it out",
            param=f"chat_template_kwargs.{name}",
        )
    for name in EFFORT_VARIABLES:
        variables.pop(name, None)
    if spec is None:
        return variables
    if spec.switch == "enable_thinking":
        variables["enable_thinking"] = thinking
    native_levels = {str(ours): theirs for ours, theirs in spec.native_levels.items()}
    native = native_levels.get(level if thinking else "none")
    if native is not None:
        variables["reasoning_effort"] = native
    return variables


def check_text(text: str, param: str) -> None:
    """Raises `InvalidParameterError` for a text that is no valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidParameterError(
            f"'{param}' has an unpaired surrogate at character {error.start}; send valid Unicode",
            param=param,
        ) from None


def check_prompt_size(text_bytes: int, info: EngineInfo, param: str) -> None:
    """Raises `ContextLengthError` for a prompt that cannot fit, before time goes into tokens."""
    most = info.max_model_len * info.longest_token
    if text_bytes > most:
        raise ContextLengthError(
            f"the prompt has {text_bytes:,} bytes, more than a context of {info.max_model_len:,} "
            "tokens can hold; shorten it",
            param=param,
        )


def stop_strings(body: GenerationBody) -> tuple[str, ...]:
    """The request's stop strings.

    Raises:
        InvalidParameterError: too many of them, or an empty one.
    """
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stop) > MAX_STOP_STRINGS:
        raise InvalidParameterError(
            f"{len(stop)} stop strings; at most {MAX_STOP_STRINGS} are taken", param="stop"
        )
    if any(not text for text in stop):
        raise InvalidParameterError("a stop string cannot be empty", param="stop")
    if any(len(text) > MAX_STOP_CHARACTERS for text in stop):
        raise InvalidParameterError(
            f"a stop string has at most {MAX_STOP_CHARACTERS} characters", param="stop"
        )
    for text in stop:
        check_text(text, "stop")
    return stop


@dataclass(frozen=True, slots=True)
class SamplingFacts:
    """What sampling needs beside the request.

    Attributes:
        defaults: the vendor's recommendation for this mode, or None.
        vocab_size: logit_bias ids are below it.
        logprobs: alternatives per token; None for no logprobs.
    """

    defaults: Sampling | None
    vocab_size: int
    logprobs: int | None


def sampling_params(body: GenerationBody, facts: SamplingFacts) -> SamplingParams:
    """Sampling parameters: the request's, else the model's defaults, else OpenAI's."""

    def pick(name: str, fallback: float) -> float:
        given = getattr(body, name)
        value = given if given is not None else getattr(facts.defaults, name, None)
        return fallback if value is None else value

    repeat, _ = one_of(
        {"repeat_penalty": body.repeat_penalty, "repetition_penalty": body.repetition_penalty}
    )
    return SamplingParams(
        temperature=pick("temperature", 1.0),
        top_k=max(0, int(pick("top_k", 0))),
        top_p=pick("top_p", 1.0),
        min_p=pick("min_p", 0.0),
        presence_penalty=pick("presence_penalty", 0.0),
        frequency_penalty=pick("frequency_penalty", 0.0),
        repeat_penalty=1.0 if repeat is None else repeat,
        logit_bias=_logit_bias(body.logit_bias or {}, facts.vocab_size),
        seed=None if body.seed is None else body.seed % MAX_SEED,
        logprobs=facts.logprobs,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
    )


def _logit_bias(bias: dict[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    if len(bias) > MAX_LOGIT_BIAS:
        raise InvalidParameterError(
            f"at most {MAX_LOGIT_BIAS} tokens can have a bias (given: {len(bias)})",
            param="logit_bias",
        )
    pairs = []
    for key, value in bias.items():
        if not _is_token_id(key, vocab_size):
            raise InvalidParameterError(
                f"{key[:20]!r} is no token id of this model (0..{vocab_size - 1})",
                param="logit_bias",
            )
        if not -100 <= value <= 100:  # noqa: PLR2004 - OpenAI's range
            raise InvalidParameterError(
                f"a logit bias is between -100 and 100 (given: {value})", param="logit_bias"
            )
        pairs.append((int(key), float(value)))
    return tuple(pairs)


def _is_token_id(text: str, vocab_size: int) -> bool:
    """One spelling per id: a second one would set the same token's bias again."""
    digits = text.isascii() and text.isdigit() and len(text) <= MAX_TOKEN_ID_DIGITS
    return digits and text == str(int(text)) and int(text) < vocab_size


def check_token_ids(token_ids: Sequence[int], vocab_size: int, param: str) -> None:
    """Raises `InvalidParameterError` for an id that this model does not have."""
    wrong = next((i for i in token_ids if not 0 <= i < vocab_size), None)
    if wrong is not None:
        shown = wrong if abs(wrong) < 10**MAX_TOKEN_ID_DIGITS else "a huge number"
        raise InvalidParameterError(
            f"{shown} is no token id of this model (0..{vocab_size - 1})", param=param
        )


def with_seed_of(sampling: SamplingParams, choice: int) -> SamplingParams:
    """The parameters of one of several choices: the same seed would give the same text."""
    if sampling.seed is None:
        return sampling
    return replace(sampling, seed=(sampling.seed + choice) % MAX_SEED)


def chat_logprobs(body: ChatBody) -> int | None:
    """How many alternatives to report per token; None for no logprobs at all."""
    if not body.logprobs:
        if body.top_logprobs:
            raise InvalidParameterError(
                "'top_logprobs' needs 'logprobs': true", param="top_logprobs"
            )
        return None
    return body.top_logprobs or 0


def chat_max_tokens(body: ChatBody) -> tuple[int | None, str]:
    """The output limit and the name of the field it came in."""
    value, name = one_of(
        {"max_completion_tokens": body.max_completion_tokens, "max_tokens": body.max_tokens}
    )
    return value, name or "max_completion_tokens"


def check_limits(body: GenerationBody, limits: tuple[tuple[str, str], ...]) -> None:
    """Raises `InvalidParameterError` for a field that this engine cannot serve."""
    for field, reason in limits:
        if getattr(body, field):  # 0 and nothing ask for nothing
            raise not_served(field, reason)


def not_served(field: str, reason: str) -> InvalidParameterError:
    """What is said of a field that this engine cannot serve."""
    return InvalidParameterError(f"{field!r} cannot be served: {reason}", param=field)


def check_min_tokens(body: GenerationBody, max_tokens: int) -> None:
    """Raises `InvalidParameterError` when min_tokens is more than can be generated."""
    if body.min_tokens > max_tokens:
        raise InvalidParameterError(
            f"'min_tokens' ({body.min_tokens}) is more than the {max_tokens} output tokens",
            param="min_tokens",
        )
