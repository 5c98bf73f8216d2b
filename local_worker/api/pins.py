"""Prompts that are computed once, at start, and kept: `--pin-prefix`."""

from __future__ import annotations

import itertools
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

from local_worker.api.chat import prepare
from local_worker.api.routing import ASKED_AT, Caller
from local_worker.api.schemas import ChatBody, parse
from local_worker.errors import ConfigError, RequestError
from local_worker.tokens import common_length
from local_worker.types import GenerationRequest, SamplingParams

if TYPE_CHECKING:
    from starlette.types import Message

    from local_worker.api.state import ApiState
    from local_worker.config import Pin

SHORTEST = 32
"""Tokens; fewer are computed as soon as found."""

QUESTIONS = ("Why?", "And how much is 17?")
"""What may follow a pinned prompt: it ends where these begin to make a difference."""

_numbers = itertools.count()


async def pin(state: ApiState, wanted: Pin) -> int:
    """Has the engine compute and keep what conversations with these messages begin with.

    Returns:
        Tokens that are kept, in all the ways in which the template renders them.

    Raises:
        ConfigError: the model's template refuses the messages, or they are too short or too long.
    """
    if not state.engine.info.pins:
        raise ConfigError(
            "--pin-prefix is for llama.cpp with --prefix-slots; vLLM caches what it has room for"
        )
    try:
        prefixes = await _prefixes(state, wanted)
    except RequestError as error:
        raise ConfigError(f"--pin-prefix {wanted.name}: {error}") from None
    for token_ids in prefixes:
        if len(token_ids) < SHORTEST:
            raise ConfigError(
                f"--pin-prefix {wanted.name}: {len(token_ids)} tokens are shared, and fewer than "
                f"{SHORTEST} are not worth it"
            )
        request = GenerationRequest(
            f"pin-{next(_numbers)}", token_ids, 1, SamplingParams(temperature=0), pinned=True
        )
        async with aclosing(state.engine.generate(request)) as outputs:  # type: ignore[type-var]
            async for _ in outputs:
                pass
    return sum(map(len, prefixes))


async def _prefixes(state: ApiState, wanted: Pin) -> list[tuple[int, ...]]:
    """What the prompts begin with: with a thought, and without, where the template tells them."""
    found: dict[tuple[int, ...], None] = {}
    efforts = (None,) if state.model.card.thinking is None else ("none", "high", ASKED_AT)
    for effort in efforts:
        prompts = [await _prompt(state, wanted, question, effort) for question in QUESTIONS]
        found[prompts[0][: common_length(*prompts)]] = None
    return list(found)


async def _nobody() -> Message:
    raise AssertionError("an effort that is named is not asked for")


async def _prompt(
    state: ApiState, wanted: Pin, question: str, effort: str | None
) -> tuple[int, ...]:
    body = {
        "messages": [*wanted.messages, {"role": "user", "content": question}],
        "reasoning_effort": effort,
        "max_completion_tokens": 1,
    }
    with state.books.open("pins") as account:
        caller = Caller("", _nobody, account)
        chat = await prepare(state, parse(ChatBody, json.dumps(body).encode()), caller)
    return chat.job.order.requests[0].prompt_token_ids
