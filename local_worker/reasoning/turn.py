"""One turn of the model, token by token: budget, channels, text, stop strings and the end.

This is the single place where a sampled token becomes output, whichever engine sampled it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from local_worker.reasoning.budget import BudgetMachine, Kind, Token, Verdict
from local_worker.reasoning.text import TextStream
from local_worker.types import Channel, ClosedBy, FinishReason, TextDelta

if TYPE_CHECKING:
    from local_worker.types import GenerationRequest, TokenLogprob


@dataclass(frozen=True, slots=True)
class TurnStep:
    """What one sampled token brought.

    Attributes:
        accepted: whether the token becomes part of the sequence.
        force: tokens that do in its stead, or after it, unsampled.
        deltas: text that can be shown now.
        logprobs: of the content tokens among it.
        finish: set when the turn is over; nothing may be fed after that.
    """

    accepted: bool
    force: tuple[int, ...] = ()
    deltas: tuple[TextDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None


class Turn:
    """State of one request's output.

    `num_tokens` counts what became part of the sequence: sampled and forced. It never exceeds the
    request's max_tokens: a forced closer that does not fit any more ends the turn as `LENGTH`.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._machine = _machine(request)
        inside = request.thinking is not None and request.thinking.starts_inside
        self._text = TextStream(
            request.stop,
            thinking=request.goes_on and inside,
            answering=request.goes_on and not inside,
        )
        self._deltas: list[TextDelta] = []
        self._logprobs: list[TokenLogprob] = []
        self.num_tokens = 0

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens sampled inside a thought so far."""
        return self._machine.used if self._machine else 0

    @property
    def closed_by(self) -> ClosedBy:
        """What closed the last thought."""
        return self._machine.closed_by if self._machine else ClosedBy.NONE

    @property
    def thinks(self) -> bool:
        """Whether what comes next belongs to a thought, for all that is known."""
        return self._machine is not None and self._machine.inside and not self._machine.undecided

    @property
    def stop(self) -> str | None:
        """The stop string that ended the turn, or None."""
        return self._text.stop

    @property
    def follows_grammar(self) -> bool:
        """Whether the next token has to be one that the request's grammar allows."""
        if self._request.grammar is None:
            return False
        return self._machine is None or self._machine.answers

    @property
    def is_full(self) -> bool:
        """Whether max_tokens leaves no room for another token."""
        return self.num_tokens >= self._request.max_tokens

    def begin(self) -> tuple[int, ...]:
        """To be called once before the first token. Returns tokens to force."""
        force = self._machine.begin() if self._machine else ()
        return self._take_forced(force)

    def step(
        self,
        token_id: int,
        piece: bytes,
        *,
        ends_generation: bool = False,
        logprob: TokenLogprob | None = None,
    ) -> TurnStep:
        """Feeds one sampled token with its bytes.

        Where the grammar's part begins with this very token, it is refused and nothing is forced:
        the next one is to be sampled in its place, from what the grammar allows.
        """
        token = Token(token_id, piece, logprob)
        ends = ends_generation and not (self._machine and self._machine.closes(token_id))
        if self._grammar_begins(token_id, ends=ends):
            return TurnStep(False)
        verdict = self._judge(token, ends)
        if verdict.accepted:
            self.num_tokens += 1
        for kind, labelled in verdict.labelled:
            self._show(kind, labelled)
        if ends and verdict.accepted:
            return self._finish(FinishReason.STOP)
        if self._text.stop is not None:
            return self._finish(FinishReason.STOP)
        force = self._take_forced(verdict.force)
        if len(force) < len(verdict.force) or self.is_full:
            return self._finish(FinishReason.LENGTH)
        return TurnStep(verdict.accepted, force, self._take_deltas(), self._take_logprobs())

    def abandon(self) -> tuple[TextDelta, ...]:
        """The turn ends from outside: returns the text that was still held back."""
        return self._finish(FinishReason.ABORT).deltas

    def _grammar_begins(self, token_id: int, *, ends: bool) -> bool:
        """Whether a token sampled freely belongs to the answer, and so to the grammar."""
        machine = self._machine
        if self._request.grammar is None or machine is None or machine.answers or machine.inside:
            return False
        if not ends and machine.begins_structure(token_id):
            return False
        for kind, labelled in machine.begin_answer():
            self._show(kind, labelled)
        return True

    def _judge(self, token: Token, ends: bool) -> Verdict:
        if self._machine is None or self.follows_grammar:
            return Verdict(True, () if ends else ((Kind.CONTENT, token),))
        return self._machine.end_of_generation() if ends else self._machine.step(token)

    def _show(self, kind: Kind, token: Token) -> None:
        if kind is Kind.REASONING:
            self._add(Channel.REASONING, self._text.reasoning(token.piece))
        elif kind is Kind.CONTENT:
            if token.logprob is not None:
                self._logprobs.append(token.logprob)
            search = self.num_tokens >= self._request.sampling.min_tokens
            self._add(Channel.CONTENT, self._text.content(token.piece, search_stop=search))
        else:
            self._text.close_thought()

    def _take_forced(self, force: tuple[int, ...]) -> tuple[int, ...]:
        if not force:
            return ()
        assert self._machine is not None
        self._machine.forced()
        self._text.close_thought()
        room = self._request.max_tokens - self.num_tokens
        force = force[: max(0, room)]
        self.num_tokens += len(force)
        return force

    def _add(self, channel: Channel, text: str) -> None:
        if not text:
            return
        if self._deltas and self._deltas[-1].channel is channel:
            text = self._deltas.pop().text + text
        self._deltas.append(TextDelta(channel, text))

    def _take_deltas(self) -> tuple[TextDelta, ...]:
        deltas, self._deltas = tuple(self._deltas), []
        return deltas

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        logprobs, self._logprobs = tuple(self._logprobs), []
        return logprobs

    def _finish(self, reason: FinishReason) -> TurnStep:
        if self._text.stop is None:
            for kind, token in self._machine.flush() if self._machine else ():
                self._show(kind, token)
            for delta in self._text.flush():
                self._add(delta.channel, delta.text)
        return TurnStep(True, (), self._take_deltas(), self._take_logprobs(), finish=reason)


def _machine(request: GenerationRequest) -> BudgetMachine | None:
    thinking = request.thinking
    if thinking is None:
        return None
    if request.grammar is not None:
        # A call could only be the answer, and what the answer is says the grammar.
        thinking = replace(thinking, tokens=replace(thinking.tokens, tool_start=(), tool_end=()))
    return BudgetMachine(thinking)
