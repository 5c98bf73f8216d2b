"""From what a client asked for to a thinking budget: the policy, as pure functions.

Precedence: exact budget > effort level > the operator's default > the model's. The operator's
ceiling holds over all of them. A thought may never eat the answer: some of max_tokens stays
reserved for it, and the forced closer has its place too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from local_worker.errors import ContextLengthError, InvalidParameterError
from local_worker.reasoning.routing import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping

LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Every level a client may name, `auto` aside, from least to most."""

DEFAULT_LADDER: Mapping[str, int] = {
    "none": 0,
    "minimal": 512,
    "low": 1024,
    "medium": 4096,
    "high": 16384,
    "xhigh": 32768,
}
"""Thinking tokens per level for a model without a table of its own; `max` is what fits."""

DEFAULT_ANSWER_ALLOWANCE = 4096
"""Answer tokens where neither the client nor the model's table says how many."""

ANSWER_FLOOR = 1024
"""Answer tokens that a thought leaves free, or half of max_tokens where that is less."""

Source = Literal["request_budget", "request_effort", "model", "server"]


@dataclass(frozen=True, slots=True)
class EffortRequest:
    """What the client said about thinking.

    Attributes:
        effort: the level, None where the field is absent.
        effort_field: the field's name as the client spelled it.
        budget: an exact budget; -1 asks for none of its own.
        budget_field: the field's name as the client spelled it.
        enable_thinking: of `chat_template_kwargs`.
    """

    effort: str | None = None
    effort_field: str = "reasoning_effort"
    budget: int | None = None
    budget_field: str = "reasoning_budget_tokens"
    enable_thinking: bool | None = None


@dataclass(frozen=True, slots=True)
class EffortPolicy:
    """What the model and the operator say.

    Attributes:
        can_think: whether the model has a thought at all.
        ladder: level -> thinking tokens; a level that is missing means what fits.
        auto: whether the model can be asked which effort a request needs.
        server_default: the operator's level for clients that name none.
        model_default: the model's, where the operator has none.
        ceiling: the operator's `--max-thinking-tokens`.
        answer_allowance: answer tokens when the client gives no max_tokens.
        closer_length: tokens that a forced close appends.
    """

    can_think: bool
    ladder: Mapping[str, int]
    auto: bool = False
    server_default: str | None = None
    model_default: str = AUTO
    ceiling: int | None = None
    answer_allowance: int = DEFAULT_ANSWER_ALLOWANCE
    closer_length: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What the request leaves to generate in, all in tokens."""

    prompt_tokens: int
    max_model_len: int
    max_tokens: int | None = None
    max_tokens_field: str = "max_completion_tokens"

    @property
    def left(self) -> int:
        """Tokens the context has left after the prompt."""
        return self.max_model_len - self.prompt_tokens


@dataclass(frozen=True, slots=True)
class EffortChoice:
    """Which level applies and whose choice it was. `budget` is before any arithmetic.

    `budget` None means no bound of its own. The level may still be `auto`: see `settle`.
    """

    effort: str
    source: Source
    budget: int | None

    @property
    def thinking(self) -> bool:
        """Whether the template should open (or ask for) a thought."""
        return self.budget != 0


@dataclass(frozen=True, slots=True)
class Allotment:
    """The request's final numbers.

    Attributes:
        budget: sampled thinking tokens at the most.
        max_tokens: output tokens at the most.
    """

    budget: int
    max_tokens: int


def choose(request: EffortRequest, policy: EffortPolicy) -> EffortChoice:
    """Decides the level or budget that applies.

    Raises:
        InvalidParameterError: unknown level, a budget below -1 or over the ceiling, fields that
            contradict each other, or an effort asked of a model that does not think.
    """
    _validate(request, policy)
    if not policy.can_think:
        return EffortChoice("none", "model", 0)
    if request.budget is not None:
        budget = None if request.budget == -1 else request.budget
        return EffortChoice(_nearest_level(budget, policy), "request_budget", budget)
    if request.effort is not None:
        return EffortChoice(request.effort, "request_effort", _of_level(request.effort, policy))
    if request.enable_thinking is False:
        return EffortChoice("none", "request_effort", 0)
    source: Source = "server" if policy.server_default else "model"
    level = policy.server_default or policy.model_default
    if request.enable_thinking and level in ("none", AUTO):
        level = "medium"  # who switches it on does not leave it open
    if level == AUTO and not policy.auto:
        level = "medium"
    return EffortChoice(level, source, _of_level(level, policy))


def settle(choice: EffortChoice, level: str, policy: EffortPolicy) -> EffortChoice:
    """What `auto` has come to."""
    return replace(choice, effort=level, budget=_of_level(level, policy))


def allot(choice: EffortChoice, policy: EffortPolicy, room: Room) -> Allotment:
    """Fits the budget and the answer into max_tokens and the context.

    Raises:
        ContextLengthError: the prompt leaves no room, or not as much as max_tokens asks for.
    """
    if room.left < 1:
        raise ContextLengthError(
            f"the prompt has {room.prompt_tokens} tokens and the context takes "
            f"{room.max_model_len}, output included; shorten the prompt",
            param="messages",
        )
    if room.max_tokens is not None and room.max_tokens > room.left:
        raise ContextLengthError(
            f"{room.prompt_tokens} prompt tokens and {room.max_tokens} output tokens exceed the "
            f"context of {room.max_model_len}; at most {room.left} output tokens fit",
            param=room.max_tokens_field,
        )
    bound = _least(choice.budget, policy.ceiling)
    max_tokens, floor = room.max_tokens, ANSWER_FLOOR
    if max_tokens is None:
        wanted = policy.answer_allowance
        floor = min(floor, wanted)
        if choice.thinking:
            wanted = room.left if bound is None else bound + policy.closer_length + wanted
        max_tokens = min(room.left, wanted)
    if not choice.thinking:
        return Allotment(0, max_tokens)
    reserved = min(floor, max(1, max_tokens // 2)) + policy.closer_length
    budget = max(0, max_tokens - reserved)
    return Allotment(budget if bound is None else min(bound, budget), max_tokens)


def _least(one: int | None, other: int | None) -> int | None:
    return min((n for n in (one, other) if n is not None), default=None)


def _of_level(level: str, policy: EffortPolicy) -> int | None:
    return 0 if level == "none" else policy.ladder.get(level)


def _nearest_level(budget: int | None, policy: EffortPolicy) -> str:
    """The level whose budget is nearest: the template of a family with native levels needs one."""
    if budget is None:
        return "max"
    if budget == 0:
        return "none"
    levels = [level for level in LEVELS if policy.ladder.get(level)]
    if not levels:
        return "medium"
    return min(levels, key=lambda level: abs(policy.ladder[level] - budget))


def effort_says_none(request: EffortRequest) -> bool:
    """Whether the exact budget, or else the level, asks for no thought at all."""
    if request.budget is not None:
        return request.budget == 0
    return request.effort == "none"


def _validate(request: EffortRequest, policy: EffortPolicy) -> None:
    effort, budget = request.effort, request.budget
    if effort == AUTO and policy.can_think and not policy.auto:
        raise InvalidParameterError(
            "effort 'auto' cannot be had from this model, whose words for two levels begin with "
            "the same token, or with speculation; choose one of " + ", ".join(LEVELS),
            param=request.effort_field,
        )
    if effort is not None and effort not in (*LEVELS, AUTO):
        raise InvalidParameterError(
            f"unknown effort {effort!r}; choose one of {', '.join((*LEVELS, AUTO))}",
            param=request.effort_field,
        )
    if budget is not None and budget < -1:
        raise InvalidParameterError(
            f"{budget} is no thinking budget; give a number of tokens, 0 for none, or -1 for no "
            "bound of its own",
            param=request.budget_field,
        )
    if budget is not None and policy.ceiling is not None and budget > policy.ceiling:
        raise InvalidParameterError(
            f"a thinking budget of {budget} is over this server's ceiling of {policy.ceiling} "
            "tokens",
            param=request.budget_field,
        )
    wants_thought = (budget not in (None, 0)) or (effort not in (None, "none"))
    _refuse_contradictions(request, policy, wants_thought=wants_thought)


def _refuse_contradictions(
    request: EffortRequest, policy: EffortPolicy, *, wants_thought: bool
) -> None:
    field = request.effort_field if request.effort is not None else request.budget_field
    if wants_thought and request.enable_thinking is False:
        raise InvalidParameterError(
            f"'{field}' asks for a thought and enable_thinking is false; send one of the two",
            param=field,
        )
    refuses_thought = effort_says_none(request)
    if refuses_thought and request.enable_thinking:
        raise InvalidParameterError(
            f"'{field}' asks for no thought and enable_thinking is true; send one of the two",
            param=field,
        )
    if request.budget is None and request.effort == AUTO and not request.enable_thinking:
        return  # a model that does not think is none that needs to
    if not policy.can_think and (wants_thought or request.enable_thinking):
        raise InvalidParameterError(
            "this model does not think; leave the field out or ask for 'none'",
            param=field if wants_thought else "enable_thinking",
        )
