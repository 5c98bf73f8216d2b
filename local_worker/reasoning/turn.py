"""One turn of the model, token by token: budget, channels, text, stop strings and the end.

This is the single place where a sampled token becomes output, whichever engine sampled it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from local_worker.reasoning.budget import BudgetMachine, Kind, Phase, Token, Verdict
from local_worker.reasoning.text import TextStream
from local_worker.types import Channel, ClosedBy, FinishReason, TextDelta

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_worker.types import GenerationRequest, TokenLogprob


class Stretch(NamedTuple):
    """What a grammar leaves no choice about.

    Attributes:
        tokens: that have to come next, if any.
        complete: whether nothing can follow them.
    """

    tokens: tuple[Token, ...] = ()
    complete: bool = False


class Guide(Protocol):
    """Knows where in its grammar an answer is.

    An engine that lets something else hold its answers to their grammars has none.
    """

    def begin(self) -> Stretch:
        """What every answer begins with."""
        ...

    def take(self, token_id: int) -> Stretch:
        """A token of the answer has been sampled; what has to follow it."""
        ...


@dataclass(frozen=True, slots=True)
class TurnStep:
    """What one sampled token brought.

    Attributes:
        accepted: whether the token becomes part of the sequence.
        force: tokens that do in its stead, or after it, unsampled; where it ends, too.
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

    Args:
        request: whose output it is.
        guide: where its answer is in the grammar.
        spell: the text of a control token.

    Attributes:
        complete: whether the grammar lets nothing follow.
        num_jumped_tokens: of the answer, that its grammar left no choice about.
    """

    def __init__(
        self,
        request: GenerationRequest,
        guide: Guide | None = None,
        spell: Callable[[int], bytes] = lambda _: b"",
    ) -> None:
        self._request = request
        self._guide = guide
        self._spell = spell
        self._after_close = _after_close(request)
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
        self.num_jumped_tokens = 0
        self.complete = False

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
    def may_begin_answer(self) -> bool:
        """Whether the next token is free, and refused where it shows that the answer begins."""
        machine = self._machine
        if self._request.grammar is None or machine is None:
            return False
        return not machine.answers and not machine.inside

    @property
    def is_full(self) -> bool:
        """Whether max_tokens leaves no room for another token."""
        return self.num_tokens >= self._request.max_tokens

    @property
    def over(self) -> FinishReason | None:
        """Why there is nothing left to generate; None where there is."""
        if self.complete or self.stop is not None:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.is_full else None

    def begin(self) -> tuple[int, ...]:
        """To be called once before the first token; it may be all that there is: see `over`.

        Returns:
            Tokens to force.
        """
        force = self._take_forced(self._machine.begin() if self._machine else ())
        if self._guide is None or not self.follows_grammar:
            return force
        return force + self._extend(self._guide.begin())

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
        guided = self.follows_grammar
        if self._grammar_begins(token_id, ends=ends):
            return self._go_on(False, self._jump(None))
        verdict = self._judge(token, ends)
        if verdict.accepted:
            self.num_tokens += 1
        for kind, labelled in verdict.labelled:
            self._show(kind, labelled)
        if (ends and verdict.accepted) or self._text.stop is not None:
            return self._finish(FinishReason.STOP)
        wanted = verdict.force
        if verdict.accepted and not guided and not wanted and self.follows_grammar:
            wanted = self._after_close  # the model has closed the thought: the answer begins
        force = self._take_forced(wanted)
        if len(force) == len(wanted):
            force += self._jump(token_id if guided else None)
        return self._go_on(verdict.accepted, force, cut=len(force) < len(wanted))

    def _go_on(self, accepted: bool, force: tuple[int, ...], *, cut: bool = False) -> TurnStep:
        reason = FinishReason.LENGTH if cut else self.over
        if reason is not None:
            return self._finish(reason, accepted, force)
        return TurnStep(accepted, force, self._take_deltas(), self._take_logprobs())

    def _jump(self, sampled: int | None) -> tuple[int, ...]:
        """What the grammar puts after a token sampled from it, or at the answer's beginning."""
        if self._guide is None or not self.follows_grammar:
            return ()
        return self._extend(self._guide.begin() if sampled is None else self._guide.take(sampled))

    def _extend(self, stretch: Stretch) -> tuple[int, ...]:
        taken: list[int] = []
        for token in stretch.tokens:
            if self.over is not None:
                return tuple(taken)
            taken.append(token.token_id)
            self.num_tokens += 1
            self.num_jumped_tokens += 1
            for kind, labelled in self._judge(token, ends=False).labelled:
                self._show(kind, labelled)
        self.complete = stretch.complete
        return tuple(taken)

    def abandon(self) -> tuple[TextDelta, ...]:
        """The turn ends from outside: returns the text that was still held back."""
        return self._finish(FinishReason.ABORT).deltas

    def _grammar_begins(self, token_id: int, *, ends: bool) -> bool:
        """Whether a token sampled freely belongs to the answer, and so to the grammar."""
        machine = self._machine
        if machine is None or not self.may_begin_answer:
            return False
        if not ends and machine.begins_structure(token_id):
            return False
        for kind, labelled in machine.begin_answer():
            self._show(kind, labelled)
        return True

    def _judge(self, token: Token, ends: bool) -> Verdict:
        plain = self.follows_grammar and not self._request.calls_tools
        if self._machine is None or plain:
            return Verdict(True, () if ends else ((Kind.CONTENT, token),))
        return self._machine.end_of_generation() if ends else self._machine.step(token)

    def _show(self, kind: Kind, token: Token) -> None:
        if kind is Kind.REASONING:
            self._add(Channel.REASONING, self._text.reasoning(token.piece))
        elif kind is Kind.TOOL_CALL and self._request.calls_tools:
            self._add(Channel.CONTENT, self._text.leave_content())
            piece = token.piece or self._spell(token.token_id)
            self._add(Channel.TOOL_CALL, self._text.call(piece))
        elif kind in (Kind.CONTENT, Kind.TOOL_CALL):
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
        if self._machine.phase is Phase.FORCING:
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

    def _finish(
        self, reason: FinishReason, accepted: bool = True, force: tuple[int, ...] = ()
    ) -> TurnStep:
        if self._text.stop is None:
            for kind, token in self._machine.flush() if self._machine else ():
                self._show(kind, token)
            for delta in self._text.flush():
                self._add(delta.channel, delta.text)
        return TurnStep(accepted, force, self._take_deltas(), self._take_logprobs(), finish=reason)


def _after_close(request: GenerationRequest) -> tuple[int, ...]:
    """What a family writes between the closer of a thought and its answer.

    A grammar begins with the answer, so that the model itself cannot write it any more.
    """
    if request.grammar is None or request.thinking is None:
        return ()
    tokens = request.thinking.tokens
    if tokens.silent:
        return ()  # it writes a header there, and by that shows that the answer begins
    close, end = tokens.close_after_newline, tokens.end
    starts = [i for i in range(len(close)) if close[i : i + len(end)] == end]
    return close[starts[-1] + len(end) :] if starts else ()


def _machine(request: GenerationRequest) -> BudgetMachine | None:
    thinking = request.thinking
    if thinking is None:
        return None
    if request.grammar is not None and not request.calls_tools:
        # A call could only be the answer, and what the answer is says the grammar.
        thinking = replace(thinking, tokens=replace(thinking.tokens, tool_start=(), tool_end=()))
    return BudgetMachine(thinking)
