"""Ends a thought whose answer is settled, over any engine that finds prefixes again.

The sequence is given up where its thought turns to something else, and an answer is tried from
there. If the model is sure of it, the trial simply goes on and is the answer; else the thought
does, as a sequence that begins with all that was there. Next to nothing is computed twice.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from local_worker.api.translate import with_seed_of
from local_worker.reasoning.early_exit import Confidence, Thought
from local_worker.types import Channel, ClosedBy, FinishReason, ThinkingParams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from local_worker.engine import Generates
    from local_worker.rules import EarlyExit
    from local_worker.types import (
        Finish,
        GenerationRequest,
        SamplingParams,
        Start,
        StepOutput,
        TokenLogprob,
    )

MOST_TRIALS = 8
"""In one turn."""

SEED_STEP = 1_000_003
"""Between the seeds of two parts: choices of one request are one apart."""

LEAST_ANSWER = 8
"""Tokens that must be left for an answer, or none is tried."""


class EarlyExits:
    """Implements `engine.Generates` over another one.

    Args:
        engine: that generates.
        spec: where to try, and how sure the model has to be.
        has_room: whether a sequence sent now would run at once. Where others wait, the one that is
            given up for a trial would lose its place to them, so none is made.
    """

    def __init__(
        self, engine: Generates, spec: EarlyExit, has_room: Callable[[], bool] = lambda: True
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._has_room = has_room

    async def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        """See `engine.Engine.generate`."""
        if not may_exit(request):
            async with aclosing(self._part(request)) as outputs:
                async for output in outputs:
                    yield output
            return
        run = _Run(request, Thought(self._spec.markers, opened=_opened(request)))
        while True:
            turning: StepOutput | None = None
            at: int | None = None
            async with aclosing(self._part(run.next_part())) as outputs:
                async for output in outputs:
                    at = run.follow(output)
                    shown = run.shown(output)
                    if at is not None and run.can_try and self._has_room():
                        turning = shown
                        break
                    yield shown
            if turning is None or at is None:
                return
            async with aclosing(self._trial(run, at)) as tried:
                settled = False
                async for output in tried:
                    settled = True
                    yield output
            if settled:
                return
            run.begin_part()
            yield turning

    def _part(self, request: GenerationRequest) -> AsyncGenerator[StepOutput, None]:
        return cast("AsyncGenerator[StepOutput, None]", self._engine.generate(request))

    async def _trial(self, run: _Run, at: int) -> AsyncGenerator[StepOutput, None]:
        """The answer, if the model is sure of it; else nothing."""
        request, forced = run.trial(at)
        held: list[StepOutput] = []
        confidence, settled = Confidence(), False
        async with aclosing(self._part(request)) as outputs:
            async for output in outputs:
                confidence.add(output.logprobs)
                held.append(output)
                looked = confidence.count >= self._spec.window or output.finish is not None
                if not settled and looked:
                    failed = output.finish and output.finish.reason is FinishReason.ERROR
                    if failed or confidence.value <= self._spec.confidence:
                        break
                    settled = True
                if settled:
                    for answer in held:
                        yield run.answered(answer, forced)
                    held.clear()
        if not settled:
            run.trial_tokens += forced + (held[-1].num_tokens if held else 0)


@dataclass(slots=True)
class _Run:
    """One turn, in parts.

    Attributes:
        request: as it came.
        thought: so far, with all tokens of the turn.
        used: thinking tokens.
        base: tokens before the present part.
        parts: how many there were.
        trials: likewise.
        trial_tokens: of trials that came to nothing.
        start: how the first part began.
        first_at: when.
        space: that the last part has kept for what comes after it.
    """

    request: GenerationRequest
    thought: Thought
    used: int = 0
    base: int = 0
    parts: int = 0
    trials: int = 0
    trial_tokens: int = 0
    start: Start | None = None
    first_at: float = 0.0
    space: str = ""

    def next_part(self) -> GenerationRequest:
        """What is to be generated from here on, if the thought goes on."""
        request, ids = self.request, tuple(self.thought.token_ids)
        self.parts += 1
        if self.parts == 1:
            return replace(request, traced=True)
        thinking = request.thinking
        assert thinking is not None, "only thoughts have parts"
        return replace(
            request,
            request_id=f"{request.request_id}.{self.parts}",
            prompt_token_ids=request.prompt_token_ids + ids,
            max_tokens=request.max_tokens - len(ids),
            thinking=replace(thinking, used=self.used, starts_inside=True),
            sampling=self._sampling(2 * self.parts),
            traced=True,
            goes_on=True,
        )

    def begin_part(self) -> None:
        """The thought goes on after a trial."""
        self.base = len(self.thought.token_ids)
        self.space = self.thought.space

    def follow(self, output: StepOutput) -> int | None:
        """Takes an output of the present part in; see `Thought.add`."""
        self.used = output.num_reasoning_tokens
        trace = output.trace
        if trace is None:  # an end from outside, which no token brought
            return None
        if self.start is None and trace.start is not None:
            self.start, self.first_at = trace.start, time.monotonic()
        return self.thought.add(trace)

    @property
    def can_try(self) -> bool:
        """Whether there is room for an answer, and patience."""
        return self.trials < MOST_TRIALS and self._room >= LEAST_ANSWER

    def trial(self, at: int) -> tuple[GenerationRequest, int]:
        """The request for an answer from there, and how many tokens close the thought for it."""
        request, closer, thinking = self.request, self._closer, self.request.thinking
        assert thinking is not None
        self.trials += 1
        prompt = (*request.prompt_token_ids, *self.thought.token_ids[:at], *closer)
        sampling = self._sampling(2 * self.trials - 1)
        tried = replace(
            request,
            request_id=f"{request.request_id}.t{self.trials}",
            prompt_token_ids=prompt,
            max_tokens=self._room,
            thinking=ThinkingParams(thinking.tokens, 0),
            sampling=replace(sampling, logprobs=max(1, sampling.logprobs or 0)),
            goes_on=True,
        )
        return tried, len(closer)

    def _sampling(self, number: int) -> SamplingParams:
        """Of a part or trial: the same seed again would repeat the draws of the beginning."""
        return with_seed_of(self.request.sampling, number * SEED_STEP)

    @property
    def _closer(self) -> tuple[int, ...]:
        assert self.request.thinking is not None
        return self.request.thinking.tokens.close_after_newline  # it ends in a line's end

    @property
    def _room(self) -> int:
        return self.request.max_tokens - len(self.thought.token_ids) - len(self._closer)

    def shown(self, output: StepOutput) -> StepOutput:
        """An output of the present part, as one of the whole turn."""
        deltas = output.deltas
        if self.space and deltas and deltas[0].channel is Channel.REASONING:
            deltas = (replace(deltas[0], text=self.space + deltas[0].text), *deltas[1:])
        if deltas:
            self.space = ""
        return replace(
            output,
            deltas=deltas,
            request_id=self.request.request_id,
            num_tokens=self.base + output.num_tokens,
            finish=self._finished(output.finish),
        )

    def answered(self, output: StepOutput, forced: int) -> StepOutput:
        """An output of a trial that was taken, likewise."""
        finish = output.finish
        if finish is not None:
            finish = replace(finish, closed_by=ClosedBy.EARLY)
        return replace(
            output,
            request_id=self.request.request_id,
            num_tokens=len(self.thought.token_ids) + forced + output.num_tokens,
            num_reasoning_tokens=self.used,
            logprobs=tuple(map(self._wanted, output.logprobs)) if self._wants_logprobs else (),
            finish=self._finished(finish),
        )

    @property
    def _wants_logprobs(self) -> bool:
        return self.request.sampling.logprobs is not None

    def _wanted(self, logprob: TokenLogprob) -> TokenLogprob:
        return replace(logprob, top=logprob.top[: self.request.sampling.logprobs])

    def _finished(self, finish: Finish | None) -> Finish | None:
        """With the times of the whole turn."""
        if finish is None or self.start is None or (self.parts == 1 and not self.trials):
            return finish
        return replace(
            finish,
            queued=self.start.queued,
            prefill=self.start.prefill,
            decode=time.monotonic() - self.first_at,
            cached_tokens=self.start.cached_tokens,
            trial_tokens=self.trial_tokens,
        )


def may_exit(request: GenerationRequest) -> bool:
    """Whether another sequence can take the thought of a request up without a difference."""
    sampling = request.sampling
    return (
        request.thinking is not None
        and request.thinking.budget != 0
        and not sampling.min_tokens
        and not sampling.ignore_eos
        # These count what is in the output, of which a new part knows nothing.
        and not sampling.presence_penalty
        and not sampling.frequency_penalty
    )


def _opened(request: GenerationRequest) -> bool:
    return request.thinking is not None and request.thinking.starts_inside
