"""`auto` over HTTP: rules, the conversation's earlier choice, or one step of the model."""

from __future__ import annotations

import itertools
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_worker.api.choices import collect
from local_worker.api.events import unless_gone
from local_worker.reasoning.routing import Decision, Facts, by_rule, conversation_key
from local_worker.types import GenerationRequest, SamplingParams

if TYPE_CHECKING:
    from starlette.types import Receive

    from local_worker.api.model import Router
    from local_worker.api.prompting import Prompter
    from local_worker.api.schemas import ChatBody
    from local_worker.api.state import ApiState

BIAS = 100.0
"""Added to the labels' logits: nothing else can be chosen."""

ASKED_AT = "medium"
"""The level for which a template is rendered before the level is known."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A request that leaves its effort open.

    Attributes:
        cache_salt: of the tenant.
        adapter: the LoRA adapter to compute with.
        receive: tells when the client has gone.
    """

    body: ChatBody
    prompter: Prompter
    cache_salt: str
    adapter: str | None
    receive: Receive


async def decide(state: ApiState, router: Router, asking: Asking) -> Decision:
    """The effort of a request.

    Raises:
        RequestError: the prompt cannot be made.
        EngineError: the model could not be asked.
        ClientGoneError: nobody waits for it any more.
    """
    decision = await _decide(state, router, asking)
    state.metrics.routed(decision)
    return decision


async def _decide(state: ApiState, router: Router, asking: Asking) -> Decision:
    body = asking.body
    prompt = await asking.prompter.prompt(ASKED_AT, thinking=True)
    wanted = body.response_format.type if body.response_format else "text"
    facts = Facts(body.model, wanted, len(prompt.token_ids), body.metadata or {})
    ruled = by_rule(router.rules, facts)
    if ruled is not None:
        return ruled
    messages = [message.model_dump(include={"role", "content"}) for message in body.messages]
    owner = f"{asking.cache_salt}\0{asking.adapter or ''}"
    key = conversation_key(messages, body.prompt_cache_key, owner)
    known = state.conversations.find(key)
    if known is not None:
        return known
    decision = await _ask(state, router, asking, prompt.token_ids)
    state.conversations.remember(key, decision.effort)
    return decision


async def _ask(
    state: ApiState, router: Router, asking: Asking, prompt: tuple[int, ...]
) -> Decision:
    question = (await asking.prompter.question(ASKED_AT, router.probe)).token_ids
    if len(question) >= state.model.max_model_len:
        return Decision("none", "default", "the context has no room to ask the model")
    pairs = zip(prompt, question, strict=False)
    alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    request = GenerationRequest(
        request_id=secrets.token_hex(12),
        prompt_token_ids=question,
        max_tokens=1,
        sampling=SamplingParams(
            temperature=0, logprobs=0, logit_bias=tuple((i, BIAS) for i in router.labels)
        ),
        background=asking.body.service_tier == "flex",
        cache_salt=asking.cache_salt,
        adapter=asking.adapter,
        # What this computes of the prompt, the request itself takes over.
        continues_at=alike or None,
    )
    with state.admission.admit(1):
        (choice,) = await unless_gone(collect(state.engine, [request]), asking.receive)
    answer = choice.logprobs[-1]
    share = math.exp(answer.logprob)
    effort = router.labels.get(answer.token_id)
    tokens = len(question) - alike + 1
    if effort is None:
        return Decision(ASKED_AT, "default", "the model named no level", tokens)
    return Decision(effort, "model", f"it gives this level a probability of {share:.2f}", tokens)
