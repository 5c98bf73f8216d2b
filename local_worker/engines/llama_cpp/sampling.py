"""From a row of logits to a token: penalties and masks, then an argmax or a draw.

The order is fixed, so that both engines mean the same by the same numbers: penalties and bias,
top_k, temperature, min_p, top_p, then the draw. No sampler chain of llama.cpp's runs: over a
vocabulary of 150,000 one costs 0.2-0.6 ms per token, an argmax 0.04-0.09.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from local_worker.engines.llama_cpp.candidates import draw
from local_worker.types import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from local_worker.engines.llama_cpp.binding import Llama
    from local_worker.types import SamplingParams


GREEDY = 1e-5
"""Below this temperature (vLLM's limit, too) logits over temperature leave single precision."""


class BadLogitsError(Exception):
    """The model gave no usable distribution (NaN, or every token masked)."""


class Sampler:
    """Chooses one sequence's tokens."""

    def __init__(self, params: SamplingParams, llama: Llama, prompt_ids: Iterable[int]) -> None:
        self._params = params
        self._llama = llama
        self._counts: dict[int, int] = {}
        repeat = params.repeat_penalty != 1
        self._repeated: dict[int, None] = dict.fromkeys(prompt_ids) if repeat else {}
        self._bias = _split_bias(params.logit_bias)
        self._random = np.random.default_rng(params.seed)

    def sample(
        self,
        logits: NDArray[np.float32],
        num_output_tokens: int,
        banned: NDArray[np.bool_] | None = None,
    ) -> tuple[int, TokenLogprob | None]:
        """Draws the next token.

        Args:
            logits: shape (vocab_size,), the library's own buffer: changed in place.
            num_output_tokens: output tokens so far, for min_tokens.
            banned: tokens that cannot come next, shape (vocab_size,).

        Raises:
            BadLogitsError: nothing can be drawn from this row.
        """
        raw = logits.copy() if self._params.logprobs is not None else None
        self._shape(logits, num_output_tokens)
        if banned is not None:
            np.copyto(logits, -np.inf, where=banned)
        token_id = int(logits.argmax())  # of NaN, if there is one
        if not np.isfinite(logits[token_id]):
            raise BadLogitsError("the model returned no usable probabilities (NaN or all masked)")
        if self._params.temperature >= GREEDY:
            token_id = draw(logits, self._params, self._random)
        logprob = None if raw is None else self._logprob(raw, token_id)
        return token_id, logprob

    def accept(self, token_id: int) -> None:
        """A token, sampled or forced, became part of the output."""
        self._counts[token_id] = self._counts.get(token_id, 0) + 1
        if self._params.repeat_penalty != 1:
            self._repeated[token_id] = None

    def _shape(self, logits: NDArray[np.float32], num_output_tokens: int) -> None:
        params = self._params
        if params.repeat_penalty != 1 and self._repeated:
            ids = np.fromiter(self._repeated, np.int64)
            seen, penalty = logits[ids], np.float32(params.repeat_penalty)
            logits[ids] = np.where(seen > 0, seen / penalty, seen * penalty)
        if (params.presence_penalty or params.frequency_penalty) and self._counts:
            ids = np.fromiter(self._counts, np.int64)
            counts = np.fromiter(self._counts.values(), np.float32)
            logits[ids] -= params.frequency_penalty * counts + params.presence_penalty
        if self._bias is not None:
            ids, bias = self._bias
            logits[ids] += bias
        if params.ignore_eos or num_output_tokens < params.min_tokens:
            logits[self._llama.end_id_array] = -np.inf

    def _logprob(self, raw: NDArray[np.float32], token_id: int) -> TokenLogprob:
        wide = raw.astype(np.float64)
        wide -= wide.max()
        wide -= np.log(np.exp(wide).sum())
        top: tuple[tuple[bytes, float], ...] = ()
        count = min(self._params.logprobs or 0, len(wide))
        if count:
            best = np.argpartition(-wide, count - 1)[:count]
            best = best[np.argsort(-wide[best], kind="stable")]
            top = tuple((self._llama.piece(int(i), special=True), float(wide[i])) for i in best)
        piece = self._llama.piece(token_id, special=True)
        return TokenLogprob(token_id, piece, float(wide[token_id]), top)


def _split_bias(
    bias: tuple[tuple[int, float], ...],
) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    if not bias:
        return None
    ids, values = zip(*bias, strict=True)
    return np.array(ids, np.int64), np.array(values, np.float32)
