"""One request's output and times, whichever engine computes it. Pure: it is told both.

WAITING -> RUNNING -> FINISHED
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from local_worker.reasoning.turn import Turn
from local_worker.types import Finish, FinishReason, Start, StepOutput, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_worker.reasoning.turn import Guide
    from local_worker.types import GenerationRequest, TextDelta, TokenLogprob


class Status(Enum):
    """Where a sequence is in its life."""

    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


class Sequence:
    """State of one request in an engine.

    Attributes:
        token_ids: prompt and output, in order.
        num_cached_tokens: of the prompt, that need not be computed.
        arrived: time of arrival in the engine.
    """

    def __init__(
        self,
        request: GenerationRequest,
        now: float,
        guide: Guide | None = None,
        spell: Callable[[int], bytes] = lambda _: b"",
    ) -> None:
        self.request = request
        self.status = Status.WAITING
        self.token_ids: list[int] = list(request.prompt_token_ids)
        self.num_cached_tokens = 0
        self.turn = Turn(request, guide, spell)
        self._untraced = self.turn.begin()
        self.token_ids.extend(self._untraced)
        self.arrived = now
        self._started: float | None = None
        self._first_token: float | None = None

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens known so far."""
        return len(self.token_ids)

    def start(self, now: float) -> None:
        """WAITING -> RUNNING."""
        assert self.status is Status.WAITING, self.status
        self.status = Status.RUNNING
        self._started = now

    def take(
        self, token_id: int, piece: bytes, *, ends: bool, logprob: TokenLogprob | None, now: float
    ) -> tuple[tuple[int, ...], StepOutput]:
        """Applies one sampled token.

        Returns:
            The tokens that became part of the sequence (the sampled one unless it was refused,
            and forced ones), and what to report.
        """
        assert self.status is Status.RUNNING, self.status
        step = self.turn.step(token_id, piece, ends_generation=ends, logprob=logprob)
        taken = ((token_id,) if step.accepted else ()) + step.force
        # One that is only refused is nothing yet: another one comes in its place.
        first = self._first_token is None and (bool(taken) or step.finish is not None)
        if first:
            self._first_token = now
        self.token_ids.extend(taken)
        finish = None
        if step.finish is not None:
            finish = self._finish(step.finish, now)
        output = self._output(step.deltas, step.logprobs, finish)
        if self.request.traced:
            start = self._begun() if first else None
            trace = Trace(self._untraced + taken, piece, self.turn.thinks, start)
            self._untraced, output = (), replace(output, trace=trace)
        return taken, output

    def end(
        self,
        reason: FinishReason,
        now: float,
        error: str | None = None,
        param: str | None = None,
    ) -> StepOutput:
        """Ends it from outside: aborted, or an error that some field of its request may explain."""
        assert self.status is not Status.FINISHED, self.status
        deltas = self.turn.abandon()
        finish = replace(self._finish(reason, now), error=error, param=param)
        return self._output(deltas, (), finish)

    def _begun(self) -> Start:
        assert self._started is not None
        assert self._first_token is not None
        return Start(
            queued=self._started - self.arrived,
            prefill=self._first_token - self._started,
            cached_tokens=self.num_cached_tokens,
        )

    def _finish(self, reason: FinishReason, now: float) -> Finish:
        self.status = Status.FINISHED
        started = self._started if self._started is not None else now
        first = self._first_token if self._first_token is not None else now
        return Finish(
            reason,
            closed_by=self.turn.closed_by,
            stop=self.turn.stop,
            queued=started - self.arrived,
            prefill=first - started,
            decode=now - first,
            cached_tokens=self.num_cached_tokens,
            jumped_tokens=self.turn.num_jumped_tokens,
        )

    def _output(
        self,
        deltas: tuple[TextDelta, ...],
        logprobs: tuple[TokenLogprob, ...],
        finish: Finish | None,
    ) -> StepOutput:
        return StepOutput(
            self.request.request_id,
            deltas,
            self.turn.num_tokens,
            self.turn.num_reasoning_tokens,
            logprobs,
            finish,
        )
