"""Which sequences get how many tokens in the next step. Pure: decides and obeys, computes nothing.

Each step hands out a token budget: sequences past their prompt first (their next token, or a
forced stretch), the rest to prompt chunks, oldest first. Admission reserves KV cells for prompt and
max_tokens, so a running sequence never lacks room and none ever has to be thrown out; a sequence
for which there is no room waits, in order of arrival.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_worker.engines.process.sequence import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_worker.engines.llama_cpp.sequence import CachedSequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of one sequence to compute in a step.

    Attributes:
        sequence: whose.
        start: position of the first token.
        token_ids: the stretch.
        samples: whether it reaches the sequence's newest token, whose logits give the next one.
    """

    sequence: CachedSequence
    start: int
    token_ids: tuple[int, ...]
    samples: bool


class Scheduler:
    """Owns the waiting queue, the running sequences and the KV slots.

    Args:
        max_num_seqs: slots.
        kv_capacity: KV cells shared by all of them.
        max_tokens_per_step: token budget of one step; at least max_num_seqs.
    """

    def __init__(self, max_num_seqs: int, kv_capacity: int, max_tokens_per_step: int) -> None:
        if max_tokens_per_step < max_num_seqs:
            raise ValueError("a step must have room for one token of every sequence")
        self._kv_capacity = kv_capacity
        self._max_tokens_per_step = max_tokens_per_step
        self._free_slots = list(range(max_num_seqs - 1, -1, -1))
        self.waiting: deque[CachedSequence] = deque()
        self.running: list[CachedSequence] = []

    @property
    def reserved_cells(self) -> int:
        """KV cells promised to running sequences."""
        return sum(sequence.reserved_cells for sequence in self.running)

    @property
    def used_cells(self) -> int:
        """KV cells that hold computed tokens."""
        return sum(sequence.num_computed_tokens for sequence in self.running)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.running)

    def add(self, sequence: CachedSequence) -> None:
        """Queues a sequence; the caller made sure that it fits the KV buffer at all."""
        assert sequence.status is Status.WAITING
        self.waiting.append(sequence)

    def find(self, request_id: str) -> CachedSequence | None:
        """The waiting or running sequence of that request, or None."""
        every = (*self.running, *self.waiting)
        return next((s for s in every if s.request.request_id == request_id), None)

    def remove(self, sequence: CachedSequence) -> int | None:
        """Forgets a sequence. Returns the slot to free, None if it had none."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return None
        self.running.remove(sequence)
        slot, sequence.slot = sequence.slot, None
        self._free_slots.append(slot)
        return slot

    def plan(self, now: float) -> tuple[Chunk, ...]:
        """Admits what fits and decides the next step's chunks; empty when there is no work."""
        self._admit(now)
        return tuple(self._chunks())

    def _admit(self, now: float) -> None:
        free_cells = self._kv_capacity - self.reserved_cells
        while self.waiting and self._free_slots:
            cells = self.waiting[0].reserved_cells
            if cells > free_cells:
                return  # first come, first served: a smaller one behind it does not overtake
            free_cells -= cells
            sequence = self.waiting.popleft()
            sequence.start_in(self._free_slots.pop(), now)
            self.running.append(sequence)

    def _chunks(self) -> Iterator[Chunk]:
        budget = self._max_tokens_per_step
        decoding = [s for s in self.running if not s.is_prefilling]
        prefilling = [s for s in self.running if s.is_prefilling]
        for index, sequence in enumerate((*decoding, *prefilling)):
            # A long forced stretch must not take the one token that others still need.
            kept_back = max(0, len(decoding) - index - 1)
            count = min(sequence.num_pending_tokens, budget - kept_back)
            if count <= 0:
                return
            budget -= count
            start = sequence.num_computed_tokens
            token_ids = tuple(sequence.token_ids[start : start + count])
            yield Chunk(sequence, start, token_ids, start + count == sequence.num_tokens)
