"""POST /v1/completions: text goes in as it is and comes out as it is, thoughts and all."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from local_worker.api import translate
from local_worker.api.choices import Choice, stream
from local_worker.api.events import ClientGoneError
from local_worker.api.jobs import (
    GONE,
    Job,
    Limits,
    admitted,
    checked_grammar,
    make_job,
    sequences,
    tokenize_prompt,
    wants_usage,
)
from local_worker.api.render import Head, completion_choice, completion_logprobs
from local_worker.api.schemas import CompletionBody, parse
from local_worker.api.state import ApiState, state_of
from local_worker.economics.books import Order
from local_worker.errors import ContextLengthError, InvalidParameterError
from local_worker.types import PromptSegment

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from local_worker.types import GenerationRequest

router = APIRouter()

DEFAULT_MAX_TOKENS = 16
"""OpenAI's (and vLLM's) default for this endpoint."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion request, ready for the engine: `n` sequences for each prompt, in order.

    Attributes:
        echoes: text to put before each sequence's output.
    """

    head: Head
    body: CompletionBody
    order: Order
    echoes: tuple[str, ...]


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    """OpenAI's text completions, streamed or not."""
    state = state_of(request)
    body = parse(CompletionBody, await request.body())
    completion = await prepare(state, body, state.cache_salt(request, body.cache_salt))
    with ExitStack() as stack:
        # Raises before any header is out.
        account = stack.enter_context(admitted(state, request, len(completion.order.requests)))
        job = make_job(state, body, account, completion.order)
        if body.stream:
            return job.stream(state, _stream(state, completion, job), stack)
        try:
            choices = await job.run(state, request)
        except ClientGoneError:
            return Response(status_code=GONE)
    return JSONResponse(
        completion.head.object(
            "text_completion",
            choices=[
                completion_choice(
                    index,
                    echo + choice.content,
                    logprobs=completion_logprobs(choice.logprobs, len(echo)),
                    finish_reason=str(choice.ended.reason),
                )
                for index, (echo, choice) in enumerate(zip(completion.echoes, choices, strict=True))
            ],
            usage=job.usage(choices),
        )
    )


async def prepare(state: ApiState, body: CompletionBody, cache_salt: str) -> Completion:
    """Validates and tokenizes. Raises a `RequestError` for bad input."""
    model = state.model
    adapter = model.adapter_named(body.model)
    if body.best_of not in (None, body.n):
        raise InvalidParameterError(
            "'best_of' other than 'n' is not served; use 'n'", param="best_of"
        )
    if body.echo and body.logprobs is not None:
        raise InvalidParameterError("'echo' and 'logprobs' are not served together", param="echo")
    prompts = await _prompts(state, body)
    count = len(prompts) * body.n
    if count > state.config.max_choices:
        raise InvalidParameterError(
            f"{len(prompts)} prompts with n={body.n} are {count} sequences; at most "
            f"{state.config.max_choices} are taken",
            param="n" if body.n > 1 else "prompt",
        )
    limits = Limits(
        0,
        body.logprobs,
        grammar=await checked_grammar(state, body),
        adapter=adapter,
        cache_salt=cache_salt,
    )
    requests = tuple(r for prompt in prompts for r in _requests(state, body, prompt, limits))
    echoes = [await state.engine.detokenize(p) if body.echo else "" for p in prompts]
    head = state.head("cmpl", adapter)
    order = Order(head.response_id, head.model, requests, len(prompts), sum(map(len, prompts)))
    return Completion(head, body, order, tuple(e for e in echoes for _ in range(body.n)))


async def _prompts(state: ApiState, body: CompletionBody) -> list[tuple[int, ...]]:
    prompt = body.prompt
    given: list[str | list[int]]
    if isinstance(prompt, str):
        given = [prompt]
    elif prompt and isinstance(prompt[0], int):
        given = [[i for i in prompt if isinstance(i, int)]]
    else:
        given = [item for item in prompt if not isinstance(item, int)]
    if not given or any(not item for item in given):
        raise InvalidParameterError("a prompt cannot be empty", param="prompt")
    if len(given) > state.config.max_choices:
        raise InvalidParameterError(
            f"{len(given)} prompts; at most {state.config.max_choices} are taken", param="prompt"
        )
    return [await _token_ids(state, item) for item in given]


async def _token_ids(state: ApiState, prompt: str | list[int]) -> tuple[int, ...]:
    if isinstance(prompt, str):
        translate.check_text(prompt, "prompt")
        return await tokenize_prompt(
            state.engine, [PromptSegment(prompt)], "prompt", add_special=True
        )
    translate.check_token_ids(prompt, state.model.vocab_size, "prompt")
    return tuple(prompt)


def _requests(
    state: ApiState, body: CompletionBody, prompt: tuple[int, ...], limits: Limits
) -> tuple[GenerationRequest, ...]:
    model = state.model
    left = model.max_model_len - len(prompt)
    if left < 1 or (body.max_tokens or 1) > left:
        raise ContextLengthError(
            f"{len(prompt)} prompt tokens and {body.max_tokens or DEFAULT_MAX_TOKENS} output "
            f"tokens exceed the context of {model.max_model_len}",
            param="prompt" if left < 1 else "max_tokens",
        )
    max_tokens = body.max_tokens or min(DEFAULT_MAX_TOKENS, left)
    return sequences(model, body, prompt, replace(limits, max_tokens=max_tokens))


async def _stream(
    state: ApiState, completion: Completion, job: Job
) -> AsyncGenerator[dict[str, Any], None]:
    choices = [Choice() for _ in job.order.requests]
    for index, echo in enumerate(completion.echoes):
        if echo:
            yield _chunk(completion, completion_choice(index, echo))
    async with aclosing(stream(job.account, job.order.requests)) as outputs:
        async for index, output in outputs:
            offset = len(completion.echoes[index]) + len(choices[index].content)
            choices[index].add(output)
            text = "".join(delta.text for delta in output.deltas)
            logprobs = completion_logprobs(output.logprobs, offset)
            if text or logprobs:
                yield _chunk(completion, completion_choice(index, text, logprobs=logprobs))
            if output.finish is not None:
                state.metrics.finished(choices[index], "none")
                reason = str(output.finish.reason)
                yield _chunk(completion, completion_choice(index, "", finish_reason=reason))
    if wants_usage(job, completion.body):
        yield completion.head.object("text_completion", choices=[], usage=job.usage(choices))


def _chunk(completion: Completion, choice: dict[str, Any]) -> dict[str, Any]:
    return completion.head.object("text_completion", choices=[choice])
