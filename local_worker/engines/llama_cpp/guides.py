"""Holds answers to their grammars: which tokens may come next, and which have to.

Compiling happens in the thread that checks grammars, before a request is taken. Masks are computed
in a thread of their own while the device computes the logits that they are for. A stretch that a
grammar leaves no choice about is appended as the tokenizer writes it, and computed in one batch
with the token before it (jump-forward decoding, as in SGLang).
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from local_worker.engines.process.grammar import Known, compiled, words_of
from local_worker.reasoning.budget import Token
from local_worker.reasoning.turn import Stretch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llguidance import LLMatcher
    from numpy.typing import NDArray

    from local_worker.engines.llama_cpp.binding import Llama
    from local_worker.types import GenerationRequest, Grammar

KEPT_SECONDS = 10.0
"""Between its check and its request's start a grammar must not be compiled again: that would be in
the thread that decodes."""


FREE_SECONDS, MOST_SECONDS = 0.02, 2.0
"""Of a processor, for a token: what usual grammars take at the most. And for an answer, beyond
that: an ambiguous one takes almost a second a token, and everybody's next token waits for it."""


class GuideError(Exception):
    """The grammar cannot be followed any further: it has become too complex."""


class GrammarGuide:
    """One answer, and where in its grammar it is. Implements `turn.Guide`.

    Args:
        matcher: at the grammar's beginning.
        piece: the bytes of a token.
        vocab_size: token ids there are.
        jumps: whether what has to come is appended unsampled.
    """

    def __init__(
        self, matcher: LLMatcher, piece: Callable[[int], bytes], vocab_size: int, *, jumps: bool
    ) -> None:
        self._matcher = matcher
        self._piece = piece
        self._vocab_size = vocab_size
        self._jumps = jumps
        self._banned: NDArray[np.bool_] | None = None
        self._excess = 0.0  # seconds beyond those that are free

    def begin(self) -> Stretch:
        """What every answer begins with."""
        return self._follow(())

    def _follow(self, taken: Sequence[int]) -> Stretch:
        start = time.thread_time()
        if taken:
            self._consume(taken)
        token_ids = self._matcher.compute_ff_tokens() if self._jumps else []
        if token_ids:
            self._consume(token_ids)
        self._spent(start)
        self._check()  # else a grammar that became too complex would look like a complete answer
        tokens = tuple(Token(i, self._piece(i)) for i in token_ids)
        return Stretch(tokens, self._matcher.is_stopped())

    def take(self, token_id: int) -> Stretch:
        """A token of the answer has been sampled; what has to follow it.

        Raises:
            GuideError: the grammar does not allow it, or has become too complex.
        """
        return self._follow((token_id,))

    def prepare(self) -> None:
        """Computes what `banned` gives; safe in another thread while nothing else is asked."""
        start = time.thread_time()
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)  # of errors, `banned` tells
        self._spent(start)
        self._banned = np.unpackbits(~mask, bitorder="little").view(bool)[: self._vocab_size]

    def banned(self) -> NDArray[np.bool_]:
        """Which tokens may not come next, shape (vocab_size,).

        Raises:
            GuideError: the grammar has become too complex.
        """
        if self._banned is None:
            self.prepare()
        self._check()
        assert self._banned is not None, "prepared"
        return self._banned

    def _consume(self, token_ids: Sequence[int]) -> None:
        self._banned = None
        self._matcher.consume_tokens(token_ids)
        self._check()

    def _spent(self, start: float) -> None:
        self._excess += max(0.0, time.thread_time() - start - FREE_SECONDS)

    def _check(self) -> None:
        if self._excess > MOST_SECONDS:
            raise GuideError("the answer's grammar takes too long to follow: it is too ambiguous")
        if self._matcher.is_error():
            words = words_of(self._matcher)
            raise GuideError(f"the answer's grammar cannot be followed any further: {words}")


class _Words:
    """The vocabulary, as llguidance's wrapper wants it.

    Its own reader of llama.cpp's vocabularies takes what the library makes of a text. That knows
    some control tokens in any text, so that a schema could not have their spellings in it.
    """

    bos_token_id = None

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self.eos_token_id = min(llama.end_ids)
        self.tokens = [llama.piece(i, special=True) for i in range(llama.vocab_size)]
        self.special_token_ids = sorted(llama.control_ids | llama.end_ids)
        spellings = sorted(llama.control_tokens, key=len, reverse=True)
        self._inside = re.compile("|".join(f"(?<={re.escape(s[0])}){re.escape(s[1:])}"
                                           for s in spellings if len(s) > 1) or "(?!)")  # fmt: skip

    def __call__(self, text: str) -> list[int]:
        """Token ids of a text, in which nothing is a control token."""
        starts = [0, *(match.start() for match in self._inside.finditer(text)), len(text)]
        return [
            token_id
            for start, end in itertools.pairwise(starts)
            for token_id in self._llama.tokenize(text[start:end], parse_special=False)
        ]


class Guides:
    """Compiles grammars for a model's vocabulary, each once."""

    def __init__(self, llama: Llama, clock: Callable[[], float] = time.monotonic) -> None:
        self._llama = llama
        self._tokenizer: LLTokenizer | None = None
        self._compiled: Known[LLMatcher] = Known(KEPT_SECONDS, clock)
        self._reading = threading.Lock()

    def check(self, grammar: Grammar) -> None:
        """Raises `GrammarError` where answers cannot follow the grammar."""
        self._compiled_once(grammar)

    def knows(self, grammar: Grammar) -> bool:
        """Whether it is compiled, and stays so until a request that asks now begins."""
        return grammar in self._compiled

    def guide(self, request: GenerationRequest) -> GrammarGuide | None:
        """For a request; None where its answer is free.

        A grammar that was checked is compiled already, unless another process did that, which has
        ended since.
        """
        grammar = request.grammar
        if grammar is None:
            return None
        return GrammarGuide(
            self._compiled_once(grammar).deep_copy(),
            self._llama.piece,
            self._llama.vocab_size,
            # Nobody computes the logits of what is not sampled, and so there are no logprobs.
            jumps=request.sampling.logprobs is None,
        )

    def _compiled_once(self, grammar: Grammar) -> LLMatcher:
        matcher = self._compiled.get(grammar)
        if matcher is None:
            matcher = compiled(grammar, self._known_tokenizer())
            self._compiled.put(grammar, matcher)
        return matcher

    def _known_tokenizer(self) -> LLTokenizer:
        """Made for the first grammar: reading a vocabulary of 150,000 entries takes 0.7 s."""
        with self._reading:
            if self._tokenizer is None:
                words = TokenizerWrapper(_Words(self._llama))
                self._tokenizer = LLTokenizer(words, eos_token=sorted(self._llama.end_ids))
            return self._tokenizer
