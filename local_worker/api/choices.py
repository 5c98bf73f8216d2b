"""Runs the sequences of one request on the engine: merged for a stream, or collected."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from local_worker.errors import (
    EngineDiedError,
    EngineError,
    EngineGaveUpError,
    InvalidParameterError,
)
from local_worker.types import Channel, Finish, FinishReason

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from local_worker.engine import Generates
    from local_worker.types import GenerationRequest, StepOutput, TokenLogprob

MAX_RUNS = 3
"""A response of which the client has seen nothing is run again when the engine dies under it."""


@dataclass(slots=True)
class Choice:
    """One sequence's output, collected."""

    reasoning: str = ""
    content: str = ""
    calls: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    num_tokens: int = 0
    num_reasoning_tokens: int = 0
    finish: Finish | None = None

    def add(self, output: StepOutput) -> None:
        """Takes one step's output in."""
        for delta in output.deltas:
            if delta.channel is Channel.REASONING:
                self.reasoning += delta.text
            elif delta.channel is Channel.TOOL_CALL:
                self.calls += delta.text
            else:
                self.content += delta.text
        self.logprobs.extend(output.logprobs)
        self.num_tokens = output.num_tokens
        self.num_reasoning_tokens = output.num_reasoning_tokens
        self.finish = output.finish

    @property
    def ended(self) -> Finish:
        """The terminal message."""
        assert self.finish is not None, "asked for the end of a running sequence"
        return self.finish


async def stream(
    engine: Generates, requests: Sequence[GenerationRequest]
) -> AsyncGenerator[tuple[int, StepOutput], None]:
    """Outputs of all sequences as they come, each with its index.

    Raises:
        EngineError: a sequence failed.
    """
    if len(requests) == 1:
        async with aclosing(_sequence(engine, requests[0])) as outputs:
            async for output in outputs:
                yield 0, output
        return
    queue: asyncio.Queue[tuple[int, StepOutput] | BaseException | None] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_pump(engine, request, index, queue))
        for index, request in enumerate(requests)
    ]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def collect(engine: Generates, requests: Sequence[GenerationRequest]) -> list[Choice]:
    """All sequences to their ends; when one fails, the others are given up."""
    tasks = [asyncio.create_task(_collect_one(engine, request)) for request in requests]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _collect_one(engine: Generates, request: GenerationRequest) -> Choice:
    for run in range(MAX_RUNS):
        choice = Choice()
        try:
            async with aclosing(_sequence(engine, request)) as outputs:
                async for output in outputs:
                    choice.add(output)
        except EngineGaveUpError:
            raise
        except EngineDiedError:  # in the middle, of which the client has seen nothing
            if run == MAX_RUNS - 1:
                raise
        else:
            return choice
    raise AssertionError("unreachable")


async def _sequence(
    engine: Generates, request: GenerationRequest
) -> AsyncGenerator[StepOutput, None]:
    generation = cast("AsyncGenerator[StepOutput, None]", engine.generate(request))
    async with aclosing(generation) as outputs:
        async for output in outputs:
            if output.finish is not None and output.finish.reason is FinishReason.ERROR:
                problem = output.finish.error or "the engine failed on this request"
                if output.finish.param is not None:
                    raise InvalidParameterError(problem, param=output.finish.param)
                raise EngineError(problem)
            yield output


async def _pump(
    engine: Generates,
    request: GenerationRequest,
    index: int,
    queue: asyncio.Queue[tuple[int, StepOutput] | BaseException | None],
) -> None:
    try:
        async with aclosing(_sequence(engine, request)) as outputs:
            async for output in outputs:
                queue.put_nowait((index, output))
    except Exception as error:  # noqa: BLE001 - raised again where the stream is read
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)
