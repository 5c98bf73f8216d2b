"""From a row of logits to a drawn token, sorting only what can be drawn. Pure.

llama.cpp's sampler chain makes a record of each of 150,000 to 262,144 tokens and walks, and for
top_p sorts, all of them for every token of every sequence. Here the whole row is exponentiated at
most, as one vector; what top_k or top_p leave is found by bounds first, and only that is sorted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from local_worker.types import SamplingParams

FIRST_CUT, WIDEST_CUT = 8.0, 1e4
"""Below the best logit: where the best k are looked for first, and where all that is finite is."""


BLOCK = 512
"""Weights that are summed up first, to find where a draw falls."""


def candidates(
    logits: NDArray[np.float32], params: SamplingParams
) -> tuple[NDArray[np.int64] | None, NDArray[np.float32]]:
    """Tokens that can be drawn, and their weights.

    The order is top_k, temperature, min_p, top_p, as in llama.cpp's chains.

    Args:
        logits: shape (vocab_size,), the largest of them finite.
        params: with a temperature above 0.

    Returns:
        Token ids, or None for all of them in their order, and the probability of each as a share
        of the best one's.
    """
    best = logits.max()
    ids: NDArray[np.int64] | None = None
    if 0 < params.top_k < len(logits):
        ids = _highest(logits, float(best), params.top_k)
        logits = logits[ids]
    weights = logits - best
    weights *= np.float32(1 / params.temperature)
    np.exp(weights, out=weights)
    if params.min_p > 0:
        ids, weights = _only(weights >= params.min_p, ids, weights)
    if params.top_p < 1:
        total = float(weights.sum())  # pairwise: good to a millionth
        # All below this bound have less than 1 - top_p together: none of them is needed for top_p.
        ids, weights = _only(weights >= (1 - params.top_p) * total / len(weights), ids, weights)
        order = np.argsort(-weights, kind="stable")
        running = np.cumsum(weights[order], dtype=np.float64)
        # Up to the first at which the sum reaches top_p, that one included.
        order = order[: int(np.searchsorted(running, params.top_p * total)) + 1]
        ids, weights = order if ids is None else ids[order], weights[order]
    return ids, weights


def draw(logits: NDArray[np.float32], params: SamplingParams, random: np.random.Generator) -> int:
    """One of them, with its probability; arguments as above."""
    ids, weights = candidates(logits, params)
    place = _pick(weights, random.random())
    return place if ids is None else int(ids[place])


def _pick(weights: NDArray[np.float32], share: float) -> int:
    """The place at which that share of the sum is reached: first the block, then within it."""
    start = 0
    if len(weights) > 2 * BLOCK:
        sums = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK))
        block, share = _reached(sums, share)
        start = block * BLOCK
        weights = weights[start : start + BLOCK]
    return start + _reached(weights, share)[0]


def _reached(weights: NDArray[np.float32], share: float) -> tuple[int, float]:
    """Where that share of the sum is reached, and the share of the place's own weight left then."""
    running = np.cumsum(weights, dtype=np.float64)
    wanted = share * running[-1]
    place = int(np.searchsorted(running, wanted, side="right"))
    # Rounding may ask for more than there is: then the last one that can be drawn at all is meant.
    place = min(place, int(np.flatnonzero(weights)[-1]))
    before = running[place - 1] if place else 0.0
    return place, float(min(max((wanted - before) / weights[place], 0.0), 1.0))


def _highest(logits: NDArray[np.float32], best: float, count: int) -> NDArray[np.int64]:
    """Ids of the highest logits, in order of the ids."""
    cut = FIRST_CUT
    ids = np.flatnonzero(logits >= best - cut)
    while len(ids) < count and cut < WIDEST_CUT:
        cut *= 2
        ids = np.flatnonzero(logits >= best - cut)
    if len(ids) > count:
        ids = np.sort(ids[np.argpartition(-logits[ids], count - 1)[:count]])
    return ids


def _only(
    kept: NDArray[np.bool_], ids: NDArray[np.int64] | None, weights: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    places = np.flatnonzero(kept)
    return places if ids is None else ids[places], weights[places]
