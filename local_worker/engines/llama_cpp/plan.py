"""What of which sequence is computed in a step. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from local_worker.engines.process.work import Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_worker.engines.llama_cpp.layout import Layout
    from local_worker.engines.llama_cpp.prefix_cache import Operation
    from local_worker.engines.llama_cpp.sequence import CachedSequence


_PENDING = attrgetter("num_pending_tokens")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of one sequence to compute in a step.

    Attributes:
        sequence: whose.
        start: position of the first token.
        token_ids: the stretch.
        samples: whether it reaches the sequence's newest token, whose logits give the next one.
        guesses: tokens that may come after that, computed along with it.
    """

    sequence: CachedSequence
    start: int
    token_ids: tuple[int, ...]
    samples: bool
    guesses: tuple[int, ...] = ()

    def part(self) -> Part:
        """What of a step it is; to be asked before it counts as computed."""
        count = len(self.token_ids) + len(self.guesses)
        prefills = self.sequence.is_prefilling
        request_id = self.sequence.request.request_id
        return Part(request_id, count, 0) if prefills else Part(request_id, 0, count)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: what to do to the KV buffer first, then what to compute.

    `layout` is set where the buffer is to be made anew instead; nothing is computed then.
    """

    operations: tuple[Operation, ...]
    chunks: tuple[Chunk, ...] = ()
    layout: Layout | None = None


def chunk_of(sequence: CachedSequence, count: int) -> Chunk:
    """The next tokens of a sequence."""
    start = sequence.num_computed_tokens
    token_ids = tuple(sequence.token_ids[start : start + count])
    return Chunk(sequence, start, token_ids, start + count == sequence.num_tokens)


def shares(prefilling: list[CachedSequence], budget: int) -> Iterator[tuple[CachedSequence, int]]:
    """Who computes how much of its prompt: half for the shortest, what is left for the oldest."""
    shortest_first = sorted(prefilling, key=_PENDING)
    return _hand_out(((shortest_first, budget // 2), (prefilling, budget)), budget)


def in_turn(
    prefilling: list[CachedSequence], budget: int, *, shortest: bool
) -> Iterator[tuple[CachedSequence, int]]:
    """Likewise where each sequence is computed apart: all for the shortest, or for the oldest."""
    order = sorted(prefilling, key=_PENDING) if shortest else prefilling
    return _hand_out(((order, budget),), budget)


def _hand_out(
    rounds: tuple[tuple[list[CachedSequence], int], ...], budget: int
) -> Iterator[tuple[CachedSequence, int]]:
    counts: Counter[CachedSequence] = Counter()
    for sequences, share in rounds:
        left = min(share, budget - sum(counts.values()))
        for sequence in sequences:
            more = min(_up_to_checkpoint(sequence) - counts[sequence], left)
            counts[sequence] += more
            left -= more
    return ((sequence, count) for sequence, count in counts.items() if count)


def _up_to_checkpoint(sequence: CachedSequence) -> int:
    done = sequence.num_computed_tokens
    ahead = [length - done for length in sequence.checkpoints if length > done]
    return min([sequence.num_pending_tokens, *ahead])
