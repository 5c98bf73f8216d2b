"""POST /v1/chat/completions."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from local_worker.api import translate
from local_worker.api.choices import Choice, stream
from local_worker.api.early_exit import EarlyExits
from local_worker.api.events import ClientGoneError
from local_worker.api.jobs import (
    GONE,
    Job,
    Limits,
    admitted,
    check_request,
    checked_grammar,
    make_job,
    sequences,
    wants_usage,
)
from local_worker.api.prompting import Prompter
from local_worker.api.render import (
    EffortReport,
    Head,
    chat_chunk,
    chat_deltas,
    chat_logprobs,
    chat_response,
    finish_reason,
)
from local_worker.api.routing import Asking, Caller, decide
from local_worker.api.schemas import ChatBody, parse
from local_worker.api.state import ApiState, state_of
from local_worker.api.tools import offered
from local_worker.economics.books import Order
from local_worker.errors import InvalidParameterError
from local_worker.prompts import opens_thought
from local_worker.reasoning.effort import Room, allot, choose, settle
from local_worker.reasoning.routing import AUTO
from local_worker.types import ThinkingParams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from local_worker.api.prompting import Prompt
    from local_worker.api.routing import Routed
    from local_worker.api.tools import CallReader, Offer
    from local_worker.reasoning.effort import Allotment, EffortChoice
    from local_worker.types import PromptSegment

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat request, ready for the engine."""

    head: Head
    body: ChatBody
    job: Job
    effort: EffortReport
    offer: Offer | None = None

    def reader(self) -> CallReader | None:
        """What reads the calls of one choice; None where nothing may be called."""
        return None if self.offer is None else self.offer.reader()


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completions, streamed or not."""
    state = state_of(request)
    body = parse(ChatBody, await request.body())
    _check_size(state, body)
    salt = state.cache_salt(request, body.cache_salt)
    with ExitStack() as stack:
        # From here on it is in flight, also while the model is asked for the effort.
        account = stack.enter_context(admitted(state, request, body.n))
        try:
            chat = await prepare(state, body, Caller(salt, request.receive, account))
            if chat.effort.decision is not None:
                state.metrics.routed(chat.effort.decision)
            if body.stream:
                return chat.job.stream(state, _stream(state, chat), stack)
            choices = await chat.job.run(state, request)
        except ClientGoneError:
            return Response(status_code=GONE)
        readers = [chat.reader() for _ in choices]
        found = chat_response(chat.head, choices, readers, chat.job.usage(choices), chat.effort)
    return JSONResponse(found)


async def prepare(state: ApiState, body: ChatBody, caller: Caller) -> Chat:
    """Validates, decides the effort, renders the prompt.

    Raises:
        RequestError: bad input.
        ClientGoneError: the client left while the model was asked for the effort.
    """
    model = state.model
    adapter = model.adapter_named(body.model)
    grammar = await checked_grammar(state, body)
    offer = await offered(state, body, grammar)
    prompter = Prompter(state, body, offer.shown if offer else ())
    chosen, routed = await _choose(state, Asking(body, prompter, adapter, caller))
    may_exit = model.exits_early and routed is not None
    if (
        model.early_exit
        and offer is None
        and (may_exit if body.early_exit is None else body.early_exit)
    ):
        caller.account.engine = EarlyExits(
            caller.account.engine, model.early_exit, lambda: state.engine.stats().waiting == 0
        )
    fitted = await _fit(state, body, chosen, prompter, closes=routed is not None)
    limits = Limits(
        max_tokens=fitted.allotment.max_tokens,
        logprobs=translate.chat_logprobs(body),
        thinking=_thinking_params(state, fitted.prompt.segments, fitted.allotment.budget, offer),
        grammar=grammar if offer is None else offer.grammar,
        calls_tools=offer is not None,
        adapter=adapter,
        cache_salt=caller.cache_salt,
    )
    prompt, head = fitted.prompt.token_ids, state.head("chatcmpl", adapter)
    decision = routed.counted(prompt) if routed else None
    order = Order(
        head.response_id,
        head.model,
        sequences(model, body, prompt, limits),
        prompts=1,
        prompt_tokens=len(prompt),
        effort=chosen.effort,
        budget=fitted.allotment.budget,
        router_tokens=decision.router_tokens if decision else 0,
        most_cached=routed.cached_tokens if routed and routed.question else None,
    )
    report = EffortReport(chosen, fitted.allotment.budget, decision)
    return Chat(head, body, make_job(state, body, caller.account, order), report, offer)


async def _choose(state: ApiState, asking: Asking) -> tuple[EffortChoice, Routed | None]:
    """The effort, and how `auto` came to it, if it was asked."""
    model, body = state.model, asking.body
    asked = translate.asked_effort(body)
    model.check_effort(asked.field)
    chosen = choose(asked.request, model.policy)
    if chosen.effort != AUTO:
        return chosen, None
    assert model.router is not None, "the policy knows that the model can be asked"
    check_request(model, body)  # a mistake is told later, too; here, nothing was computed yet
    translate.chat_logprobs(body)
    routed = await decide(state, model.router, asking)
    return settle(chosen, routed.decision.effort, model.policy), routed


class _Fitted(NamedTuple):
    prompt: Prompt
    allotment: Allotment


async def _fit(
    state: ApiState, body: ChatBody, chosen: EffortChoice, prompter: Prompter, *, closes: bool
) -> _Fitted:
    """The prompt, and what may follow it. `closes` is how to do without a thought: see `closed`."""
    policy, level = state.model.policy, chosen.effort
    max_tokens, field = translate.chat_max_tokens(body)

    async def without() -> Prompt:
        return await (prompter.closed(level) if closes else prompter.prompt(level, thinking=False))

    thinking = chosen.thinking
    prompt = await (prompter.prompt(level, thinking=True) if thinking else without())
    room = Room(len(prompt.token_ids), state.model.max_model_len, max_tokens, field)
    allotment = allot(chosen, policy, room)
    if thinking and allotment.budget == 0:
        # No room for a thought: the template must not open one that would be cut at once.
        prompt = await without()
        room = replace(room, prompt_tokens=len(prompt.token_ids))
        allotment = replace(allot(chosen, policy, room), budget=0)
    return _Fitted(prompt, allotment)


def _check_size(state: ApiState, body: ChatBody) -> None:
    config = state.config
    if len(body.messages) > config.max_messages:
        raise InvalidParameterError(
            f"{len(body.messages)} messages; at most {config.max_messages} are taken",
            param="messages",
        )
    if body.n > config.max_choices:
        raise InvalidParameterError(
            f"'n' is {body.n}; at most {config.max_choices} are taken", param="n"
        )


def _thinking_params(
    state: ApiState, segments: tuple[PromptSegment, ...], budget: int, offer: Offer | None
) -> ThinkingParams | None:
    spec, tokens = state.model.card.thinking, state.model.tokens
    if spec is None or tokens is None:
        # Without thoughts, calls have delimiters all the same.
        return None if offer is None else ThinkingParams(offer.layout.tokens, 0)
    return ThinkingParams(
        tokens,
        budget,
        starts_inside=opens_thought(segments, spec.start),
        calls_apart=offer is not None and offer.grammar is not None,
    )


async def _stream(state: ApiState, chat: Chat) -> AsyncGenerator[dict[str, Any], None]:
    job = chat.job
    choices = [Choice() for _ in job.order.requests]
    readers = [chat.reader() for _ in choices]
    for index in range(len(choices)):
        yield chat_chunk(chat.head, index, {"role": "assistant", "content": ""})
    async with aclosing(stream(job.account, job.order.requests)) as outputs:
        async for index, output in outputs:
            choices[index].add(output)
            reader = readers[index]
            for delta, logprobs in chat_deltas(output, reader):
                yield chat_chunk(chat.head, index, delta, logprobs=chat_logprobs(logprobs))
            if output.finish is not None:
                state.metrics.finished(choices[index], job.order.effort)
                reason = finish_reason(choices[index], reader)
                chunk = chat_chunk(chat.head, index, {}, finish_reason=reason)
                yield {**chunk, "reasoning": chat.effort.ended([choices[index]])}
    if wants_usage(job, chat.body):
        yield chat.head.object("chat.completion.chunk", choices=[], usage=job.usage(choices))
