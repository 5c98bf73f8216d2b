"""POST /v1/chat/completions."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from local_worker.api import translate
from local_worker.api.choices import Choice, stream
from local_worker.api.events import ClientGoneError
from local_worker.api.jobs import GONE, Job, Limits, checked_grammar, sequences, tokenize_prompt
from local_worker.api.render import (
    EffortReport,
    Head,
    chat_chunk,
    chat_deltas,
    chat_logprobs,
    chat_response,
    usage,
)
from local_worker.api.schemas import ChatBody, parse
from local_worker.api.state import ApiState, state_of
from local_worker.errors import InvalidParameterError
from local_worker.prompts import opens_thought
from local_worker.reasoning.effort import EffortChoice, Room, allot, choose
from local_worker.types import ThinkingParams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from local_worker.types import PromptSegment

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat request, ready for the engine."""

    head: Head
    body: ChatBody
    job: Job
    effort: EffortReport


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completions, streamed or not."""
    state = state_of(request)
    body = parse(ChatBody, await request.body())
    chat = await prepare(state, body, state.cache_salt(request, body.cache_salt))
    if body.stream:
        return chat.job.stream(state, _stream(state, chat))
    try:
        choices = await chat.job.run(state, request)
    except ClientGoneError:
        return Response(status_code=GONE)
    reasoning = chat.effort.ended(choices)
    return JSONResponse(
        chat_response(chat.head, choices, chat.job.prompt_tokens, reasoning=reasoning)
    )


async def prepare(state: ApiState, body: ChatBody, cache_salt: str) -> Chat:
    """Validates, renders the prompt, decides the effort. Raises a `RequestError` for bad input."""
    model = state.model
    adapter = model.adapter_named(body.model)
    _check_size(state, body)
    grammar = await checked_grammar(state, body)
    asked = translate.asked_effort(body)
    model.check_effort(asked.field)
    chosen = choose(asked.request, model.policy)
    max_tokens, max_tokens_field = translate.chat_max_tokens(body)

    thinking = chosen.thinking
    segments, prompt = await _prompt(state, body, chosen, thinking=thinking)
    room = Room(len(prompt), model.max_model_len, max_tokens, max_tokens_field)
    allotment = allot(chosen, model.policy, room)
    if thinking and allotment.budget == 0:
        # No room for a thought: the template must not open one that would be cut at once.
        segments, prompt = await _prompt(state, body, chosen, thinking=False)
        room = replace(room, prompt_tokens=len(prompt))
        allotment = replace(allot(chosen, model.policy, room), budget=0)
    limits = Limits(
        max_tokens=allotment.max_tokens,
        logprobs=translate.chat_logprobs(body),
        thinking=_thinking_params(state, segments, allotment.budget),
        grammar=grammar,
        adapter=adapter,
        cache_salt=cache_salt,
    )
    job = Job(sequences(model, body, prompt, limits), len(prompt), chosen.effort)
    return Chat(state.head("chatcmpl", adapter), body, job, EffortReport(chosen, allotment.budget))


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


async def _prompt(
    state: ApiState, body: ChatBody, chosen: EffortChoice, *, thinking: bool
) -> tuple[tuple[PromptSegment, ...], tuple[int, ...]]:
    spec = state.model.card.thinking
    variables = translate.template_variables(body, spec, chosen, thinking=thinking)
    template = state.model.chat_template()
    segments = template.render(translate.messages_of(body.messages), variables)
    return segments, await tokenize_prompt(state.engine, segments, "messages")


def _thinking_params(
    state: ApiState, segments: tuple[PromptSegment, ...], budget: int
) -> ThinkingParams | None:
    spec, tokens = state.model.card.thinking, state.model.tokens
    if spec is None or tokens is None:
        return None
    return ThinkingParams(tokens, budget, starts_inside=opens_thought(segments, spec.start))


async def _stream(state: ApiState, chat: Chat) -> AsyncGenerator[dict[str, Any], None]:
    choices = [Choice() for _ in chat.job.requests]
    for index in range(len(choices)):
        yield chat_chunk(chat.head, index, {"role": "assistant", "content": ""})
    async with aclosing(stream(state.engine, chat.job.requests)) as outputs:
        async for index, output in outputs:
            choices[index].add(output)
            for delta, logprobs in chat_deltas(output):
                yield chat_chunk(chat.head, index, delta, logprobs=chat_logprobs(logprobs))
            if output.finish is not None:
                state.metrics.finished(choices[index], chat.job.effort)
                chunk = chat_chunk(chat.head, index, {}, finish_reason=str(output.finish.reason))
                yield {**chunk, "reasoning": chat.effort.ended([choices[index]])}
    options = chat.body.stream_options
    if options is not None and options.include_usage:
        yield chat.head.object(
            "chat.completion.chunk", choices=[], usage=usage(chat.job.prompt_tokens, choices)
        )
