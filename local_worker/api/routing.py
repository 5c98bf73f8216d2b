"""`auto` over HTTP: rules, the conversation's earlier choice, or one step of the model."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from local_worker.api.choices import collect
from local_worker.api.events import unless_gone
from local_worker.reasoning.routing import Decision, Facts, by_rule, conversation_key
from local_worker.tokens import common_length
from local_worker.types import GenerationRequest, SamplingParams

if TYPE_CHECKING:
    from starlette.types import Receive

    from local_worker.api.model import Router
    from local_worker.api.prompting import Prompter
    from local_worker.api.schemas import ChatBody
    from local_worker.api.state import ApiState
    from local_worker.economics.books import Account

BIAS = 100.0
"""Added to the labels' logits: nothing else can be chosen."""

ASKED_AT = "medium"
"""The level for which a template is rendered before the level is known."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request.

    Attributes:
        cache_salt: of the tenant.
        receive: tells when the client has gone.
        account: of the request: what asking for its effort takes is part of it.
    """

    cache_salt: str
    receive: Receive
    account: Account


@dataclass(frozen=True, slots=True)
class Asking:
    """A request that leaves its effort open; `adapter` is the LoRA adapter to compute with."""

    body: ChatBody
    prompter: Prompter
    adapter: str | None
    caller: Caller


@dataclass(frozen=True, slots=True)
class Routed:
    """A decision, and what the model was asked, if it was.

    Attributes:
        question: token ids of the question, which begins like the request.
        cached_tokens: of those, that were not computed for it either.
    """

    decision: Decision
    question: tuple[int, ...] = ()
    cached_tokens: int = 0

    def counted(self, prompt: tuple[int, ...]) -> Decision:
        """With the tokens that were computed for the question alone, and the label itself."""
        if not self.question:
            return self.decision
        alone = len(self.question) - common_length(prompt, self.question)
        return replace(self.decision, router_tokens=alone + 1)


async def decide(state: ApiState, router: Router, asking: Asking) -> Routed:
    """The effort of a request, which counts as in flight already.

    Raises:
        RequestError: the prompt cannot be made.
        EngineError: the model could not be asked.
        ClientGoneError: nobody waits for it any more.
    """
    body = asking.body
    prompt = await asking.prompter.prompt(ASKED_AT, thinking=True)
    wanted = body.response_format.type if body.response_format else "text"
    facts = Facts(
        body.model,
        wanted,
        len(prompt.token_ids),
        body.metadata or {},
        tools=bool(body.tools) and body.tool_choice != "none",
        after_tool=body.messages[-1].role == "tool",
    )
    ruled = by_rule(router.rules, facts)
    if ruled is not None:
        return Routed(ruled)
    messages = (message.model_dump(include={"role", "content"}) for message in body.messages)
    owner = f"{asking.caller.cache_salt}\0{asking.adapter or ''}"
    key = conversation_key(messages, body.prompt_cache_key or None, owner)
    known = state.conversations.find(key)
    if known is not None:
        return Routed(known)
    routed = await _ask(state, router, asking, prompt.token_ids)
    if routed.decision.by == "model":
        state.conversations.remember(key, routed.decision.effort)
    return routed


async def _ask(state: ApiState, router: Router, asking: Asking, prompt: tuple[int, ...]) -> Routed:
    question = (await asking.prompter.question(ASKED_AT, router.probe)).token_ids
    if len(question) >= state.model.max_model_len:
        return Routed(Decision("none", "default", "the context has no room to ask the model"))
    request = GenerationRequest(
        request_id=secrets.token_hex(12),
        prompt_token_ids=question,
        max_tokens=1,
        sampling=SamplingParams(
            temperature=0, logprobs=0, logit_bias=tuple((i, BIAS) for i in router.labels)
        ),
        background=asking.body.service_tier == "flex",
        cache_salt=asking.caller.cache_salt,
        adapter=asking.adapter,
        # What this computes of the prompt, the request itself takes over.
        continues_at=common_length(prompt, question) or None,
    )
    (choice,) = await unless_gone(collect(asking.caller.account, [request]), asking.caller.receive)
    answer = choice.logprobs[-1] if choice.logprobs else None
    effort = None if answer is None else router.labels.get(answer.token_id)
    cached = choice.ended.cached_tokens
    if answer is None or effort is None:
        return Routed(Decision(ASKED_AT, "default", "the model named no level"), question, cached)
    reason = f"it gives this level a probability of {math.exp(answer.logprob):.2f}"
    return Routed(Decision(effort, "model", reason), question, cached)
