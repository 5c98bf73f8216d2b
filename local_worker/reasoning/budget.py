"""The thinking-budget state machine: one implementation, used by every engine.

    IDLE -> COUNTING -> (SOFT_LANDING) -> [WAITING_UTF8] -> FORCING -> DONE
    natural close: COUNTING | SOFT_LANDING | WAITING_UTF8 -> DONE
    opened again:  DONE -> COUNTING with what is left, or straight to FORCING when nothing is

A sampled token is shown to the machine *before* it becomes part of the sequence. The machine
accepts it and says what it is, or refuses it and says which tokens to append in its stead. That is
what lets the bound be exact: a token that would start a character the budget cannot finish is
refused, instead of being cut in half or finished over budget.

What counts: every token sampled inside a thought. What does not: the delimiters around it, tokens
that the template wrote, and forced tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from local_worker.types import ClosedBy

if TYPE_CHECKING:
    from local_worker.types import ThinkingParams, TokenLogprob

SOFT_LANDING_SHARE = 10
"""The last 1/10 of a budget is its soft-landing stretch."""

SOFT_LANDING_LIMIT = 64
"""And at most so many tokens."""

_SENTENCE_ENDS = (b".", b"!", b"?", b'."', b'!"', b'?"', b".)", b"!)", b"?)")
_UTF8_LENGTHS = ((0b1111_0000, 4), (0b1110_0000, 3), (0b1100_0000, 2))
_CONTINUATION = 0b10
_WIDE_SENTENCE_ENDS = tuple(mark.encode() for mark in "。！？")  # noqa: RUF001 - they are meant


class Phase(Enum):
    """Where the machine is; see the transition line of this module."""

    IDLE = auto()
    COUNTING = auto()
    SOFT_LANDING = auto()
    WAITING_UTF8 = auto()
    FORCING = auto()
    DONE = auto()


class Kind(Enum):
    """What a token turned out to be."""

    REASONING = auto()
    CONTENT = auto()
    TOOL_CALL = auto()
    DELIMITER = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A token id with the bytes it stands for, and what else must travel with it."""

    token_id: int
    piece: bytes
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The machine's answer to one sampled token.

    Attributes:
        accepted: False drops the token: it never becomes part of the sequence.
        labelled: tokens whose kind is now certain, in order. A token that may still turn out to be
            the beginning of a delimiter is held and comes with a later verdict (or with `flush`).
        force: tokens to append to the sequence now, unsampled.
    """

    accepted: bool
    labelled: tuple[tuple[Kind, Token], ...] = ()
    force: tuple[int, ...] = ()


def missing_utf8_bytes(tail: bytes) -> int:
    """How many bytes the last character of `tail` still lacks: 0 to 3.

    Bytes that cannot be part of UTF-8 count as complete: waiting for them would never end.
    """
    for back in range(1, min(4, len(tail)) + 1):
        lead = tail[-back]
        if lead >> 6 == _CONTINUATION:
            continue
        length = next((n for bits, n in _UTF8_LENGTHS if lead >= bits), 1)
        return max(0, length - back)
    return 0


def soft_landing_stretch(budget: int) -> int:
    """Tokens before the bound in which a line or sentence end closes the thought."""
    return min(SOFT_LANDING_LIMIT, budget // SOFT_LANDING_SHARE)


class BudgetMachine:
    """Holds one turn's thinking budget. See the module docstring for the transitions.

    Attributes:
        answers: whether the next token can only belong to the answer: no thought is open, none may
            be opened, and the header that some families put before an answer is written.
    """

    def __init__(self, params: ThinkingParams) -> None:
        self._tokens = params.tokens
        self._budget = params.budget
        self._stretch = 0 if params.budget is None else soft_landing_stretch(params.budget)
        self.used = params.used
        self.closed_by = ClosedBy.NONE
        self.phase = Phase.IDLE
        self._held: list[Token] = []
        self._tail = b""
        self._in_tool_call = False
        self._starts_inside = params.starts_inside
        self._calls_apart = params.calls_apart
        # A family that puts a header before its answer says by it that the answer begins.
        self.answers = params.budget == 0 and not params.tokens.silent

    @property
    def remaining(self) -> int | None:
        """Thinking tokens left in this turn; None is no bound."""
        return None if self._budget is None else self._budget - self.used

    @property
    def inside(self) -> bool:
        """Whether the next sampled token belongs to a thought."""
        return self.phase in (Phase.COUNTING, Phase.SOFT_LANDING, Phase.WAITING_UTF8)

    @property
    def undecided(self) -> bool:
        """Whether the last tokens may still turn out to be part of a delimiter."""
        return bool(self._held)

    def begin(self) -> tuple[int, ...]:
        """Enters the thought that the template opened, if it did. Returns tokens to force."""
        if not self._starts_inside:
            return ()
        assert self.phase is Phase.IDLE, self.phase
        return self._open()

    def step(self, token: Token) -> Verdict:
        """Judges one sampled token that does not end the generation."""
        assert self.phase is not Phase.FORCING, "forced tokens are not sampled"
        return self._inside_step(token) if self.inside else self._outside_step(token)

    def forced(self) -> None:
        """The tokens that the last verdict asked for are part of the sequence now."""
        assert self.phase is Phase.FORCING, self.phase
        self.phase = Phase.DONE
        self.answers = True

    def end_of_generation(self) -> Verdict:
        """The model sampled an end-of-generation token. Inside a thought it ends that alone.

        A turn that ends in mid-thought has no answer, which nobody asked for: the thought is
        closed as the model's own doing and the answer is decoded. The verdict accepts the token
        where the turn really ends.
        """
        if not self.inside:
            return Verdict(True)
        labelled = self._release(Kind.REASONING, len(self._held))
        return Verdict(False, labelled, self._force(ClosedBy.MODEL))

    def closes(self, token_id: int) -> bool:
        """Whether this token would complete the delimiter that ends the present thought."""
        return self.inside and self._completes_delimiter(token_id)

    def begins_structure(self, token_id: int) -> bool:
        """Whether, outside a thought, this token may be part of a delimiter or a header."""
        held = (*(t.token_id for t in self._held), token_id)
        patterns = (self._tokens.start, self._tokens.end, *self._tokens.silent)
        return any(p[: len(held)] == held for p in patterns)

    def begin_answer(self) -> tuple[tuple[Kind, Token], ...]:
        """What comes next is the answer; what was held is no part of it."""
        self.answers = True
        return self._release(Kind.DELIMITER, len(self._held))

    def flush(self) -> tuple[tuple[Kind, Token], ...]:
        """The sequence ends: what was held as a possible delimiter is text after all."""
        if self.inside:
            self.closed_by = ClosedBy.MAX_TOKENS
        kind = Kind.TOOL_CALL if self._in_tool_call else Kind.CONTENT
        return self._release(Kind.REASONING if self.inside else kind, len(self._held))

    # -- outside a thought -------------------------------------------------------------------

    def _outside_step(self, token: Token) -> Verdict:
        if self._in_tool_call:
            return self._tool_call_step(token)
        tokens = self._tokens
        patterns = (tokens.start, tokens.end, tokens.tool_start, *tokens.silent)
        labelled, matched = self._match(token, patterns, Kind.CONTENT)
        if matched is None:
            return Verdict(True, labelled)
        if matched is tokens.tool_start:
            self._in_tool_call = True
            return Verdict(True, labelled + self._release(Kind.TOOL_CALL, len(matched)))
        labelled += self._release(Kind.DELIMITER, len(matched))
        if matched is tokens.start:
            return Verdict(True, labelled, self._open())
        self.answers = self.answers or matched in tokens.silent
        return Verdict(True, labelled)  # a stray closer, or structure: dropped from the text

    def _tool_call_step(self, token: Token) -> Verdict:
        tokens = self._tokens
        patterns = (tokens.tool_end, tokens.end, tokens.start)
        labelled, matched = self._match(token, patterns, Kind.TOOL_CALL)
        if matched is None:
            return Verdict(True, labelled)
        if matched is tokens.tool_end:
            self._in_tool_call = False
            return Verdict(True, labelled + self._release(Kind.TOOL_CALL, len(matched)))
        # A thought's delimiter in a call's arguments is no text; nothing is forced there, either.
        return Verdict(True, labelled + self._release(Kind.DELIMITER, len(matched)))

    def _open(self) -> tuple[int, ...]:
        self._tail = b""
        self.answers = False
        if self.remaining is not None and self.remaining <= 0:
            return self._force(ClosedBy.BUDGET)
        self.phase = Phase.COUNTING
        self._enter_stretch()
        return ()

    # -- inside a thought --------------------------------------------------------------------

    def _inside_step(self, token: Token) -> Verdict:
        if self._calls_apart and self._tokens.tool_start == (token.token_id,):
            labelled = self._release(Kind.REASONING, len(self._held))
            return Verdict(False, labelled, self._force(ClosedBy.TOOL_CALL))
        refusal = self._refuse(token)
        if refusal is not None and not self._completes_delimiter(token.token_id):
            labelled = self._release(Kind.REASONING, len(self._held))
            return Verdict(False, labelled, self._force(refusal))
        self.used += 1
        tokens = self._tokens
        patterns = (tokens.end, tokens.tool_start, tokens.start)
        labelled, matched = self._match(token, patterns, Kind.REASONING)
        if matched is tokens.start:  # opened twice: no text, but it was sampled and counts
            labelled += self._release(Kind.DELIMITER, len(matched))
        elif matched is not None:
            return Verdict(True, labelled + self._close_naturally(matched))
        self._tail = (self._tail + token.piece)[-8:]
        reason = self._bound_reached()
        if reason is None:
            self._enter_stretch()
            return Verdict(True, labelled)
        labelled += self._release(Kind.REASONING, len(self._held))
        return Verdict(True, labelled, self._force(reason))

    def _refuse(self, token: Token) -> ClosedBy | None:
        """Why this token must not become part of the thought, or None."""
        if self.remaining is None:
            return None
        if missing_utf8_bytes(self._tail + token.piece) > self.remaining - 1:
            return ClosedBy.BUDGET
        if self.phase is Phase.SOFT_LANDING and token.piece[:1].isspace():
            # The sentence is over only when white space follows: "3." may become "3.14".
            ended = self._tail.endswith(_SENTENCE_ENDS) and not token.piece.startswith(b"\n")
            return ClosedBy.SOFT if ended else None
        return None

    def _completes_delimiter(self, token_id: int) -> bool:
        held = (*(t.token_id for t in self._held), token_id)
        return held in (self._tokens.end, self._tokens.tool_start)

    def _close_naturally(self, matched: tuple[int, ...]) -> tuple[tuple[Kind, Token], ...]:
        self.used -= len(matched)  # a delimiter is no thought
        self.phase = Phase.DONE
        if matched is self._tokens.tool_start:
            self._in_tool_call = True
            self.closed_by = ClosedBy.TOOL_CALL
            return self._release(Kind.TOOL_CALL, len(matched))
        self.closed_by = ClosedBy.MODEL
        self.answers = not self._tokens.silent
        return self._release(Kind.DELIMITER, len(matched))

    def _bound_reached(self) -> ClosedBy | None:
        if self.remaining is None:
            return None
        if self.remaining <= 0:
            return ClosedBy.BUDGET
        if self.remaining <= self._stretch and self._tail.endswith((b"\n", *_WIDE_SENTENCE_ENDS)):
            return ClosedBy.SOFT
        return None

    def _enter_stretch(self) -> None:
        if self.remaining is None:
            return
        missing = missing_utf8_bytes(self._tail)
        if missing and missing >= self.remaining:
            self.phase = Phase.WAITING_UTF8
        else:
            soft = self.remaining <= self._stretch
            self.phase = Phase.SOFT_LANDING if soft else Phase.COUNTING

    def _force(self, reason: ClosedBy) -> tuple[int, ...]:
        self.phase = Phase.FORCING
        self.closed_by = reason
        after_newline = self._tail.endswith(b"\n")
        return self._tokens.close_after_newline if after_newline else self._tokens.close

    # -- delimiters of several tokens --------------------------------------------------------

    def _match(
        self, token: Token, patterns: tuple[tuple[int, ...], ...], otherwise: Kind
    ) -> tuple[tuple[tuple[Kind, Token], ...], tuple[int, ...] | None]:
        """Adds a token to the held ones; releases those that begin no pattern any more."""
        self._held.append(token)
        released: tuple[tuple[Kind, Token], ...] = ()
        while self._held:
            held = tuple(t.token_id for t in self._held)
            whole = next((p for p in patterns if p == held), None)
            if whole is not None:
                return released, whole
            if any(p[: len(held)] == held for p in patterns):
                break
            released += self._release(otherwise, 1)
        return released, None

    def _release(self, kind: Kind, count: int) -> tuple[tuple[Kind, Token], ...]:
        released = tuple((kind, token) for token in self._held[:count])
        del self._held[:count]
        return released
