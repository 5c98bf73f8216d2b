"""Which sequences get how many tokens in the next step. Pure: decides and obeys, computes nothing.

Each step hands out a token budget: sequences past their prompt first (their next token, or a
forced stretch), then prompt chunks, of which there are only so many while others decode that their
next tokens come in time. Of those, half go to the shortest prompts and the rest to the oldest, so
that a short job is not stuck behind a long prompt, nor the long one behind many short ones; where
each sequence is computed apart, they take turns.

Interactive requests are admitted before background ones, which count as interactive once they have
waited for `PATIENCE` seconds: they never starve. Admission reserves KV cells for prompt and
max_tokens, so a running sequence never lacks room and none ever has to be thrown out; a sequence
for which there is no room waits, in order of arrival.

A prompt that begins like one that is just being computed waits for it instead of computing the same
tokens: requests that come together with one long system prompt compute it once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from local_worker.engines.llama_cpp.filling import Beside
from local_worker.engines.llama_cpp.kept import KeptMatch
from local_worker.engines.llama_cpp.layout import Layout, LayoutChooser
from local_worker.engines.llama_cpp.lookup import MOST_GUESSES
from local_worker.engines.llama_cpp.pace import Pace
from local_worker.engines.llama_cpp.plan import Chunk, Plan, chunk_of, in_turn, shares
from local_worker.engines.llama_cpp.prefix_cache import Cut, PrefixCache
from local_worker.engines.llama_cpp.radix import Match
from local_worker.engines.process.sequence import Status
from local_worker.tokens import common_length

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_worker.engines.llama_cpp.kept import KeptPrefixes
    from local_worker.engines.llama_cpp.prefix_cache import Lender, Operation, Room
    from local_worker.engines.llama_cpp.sequence import CachedSequence

PATIENCE = 20.0
"""Seconds after which a background request has waited long enough."""

WORTH_WAITING = 16
"""Tokens that a waiting prompt has to gain from one that is being computed."""


class Scheduler:
    """Owns the waiting queue, the running sequences and the KV slots.

    Args:
        room: slots and cells.
        max_tokens_per_step: token budget of one step; at least the room's max_num_seqs.
        target_itl: see `pace.Pace`.
        kept: prefixes outside of the KV buffer.
        layouts: what chooses the buffer's layout; None leaves it unified.
    """

    def __init__(
        self,
        room: Room,
        max_tokens_per_step: int,
        target_itl: float | None = None,
        kept: KeptPrefixes | None = None,
        layouts: LayoutChooser | None = None,
    ) -> None:
        if max_tokens_per_step < room.max_num_seqs:
            raise ValueError("a step must have room for one token of every sequence")
        self._room = self._whole_room = room
        self._max_tokens_per_step = max_tokens_per_step
        self._kept = kept
        self._cache = PrefixCache(room, kept)
        self._layouts = layouts or LayoutChooser(
            Layout.UNIFIED, room.max_num_seqs, room.kv_capacity, fixed=True
        )
        self.pace = Pace(target_itl)
        self._shortest = False  # whose turn it was where sequences are computed apart
        self._joined = False  # whether somebody has come since the buffer was last slim
        self.waiting: deque[CachedSequence] = deque()
        self.running: list[CachedSequence] = []

    @property
    def used_cells(self) -> int:
        """KV cells that running sequences have filled, shared ones once for each."""
        return sum(sequence.num_computed_tokens for sequence in self.running)

    @property
    def cached_cells(self) -> int:
        """KV cells that are kept for sequences to come."""
        return self._cache.cached_cells()

    @property
    def layout(self) -> Layout:
        """Of the KV cells."""
        return self._layouts.layout

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.running)

    def add(self, sequence: CachedSequence) -> None:
        """Queues a sequence; the caller made sure that it fits the KV buffer at all."""
        assert sequence.status is Status.WAITING
        self.waiting.append(sequence)
        self._layouts.observe(sequence, len(self.waiting) + len(self.running))

    def find(self, request_id: str) -> CachedSequence | None:
        """The waiting or running sequence of that request, or None."""
        every = (*self.running, *self.waiting)
        return next((s for s in every if s.request.request_id == request_id), None)

    def remove(self, sequence: CachedSequence, *, keep: bool = True) -> tuple[Operation, ...]:
        """Forgets a sequence; what it has computed is kept for others unless told not to."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return ()
        self.running.remove(sequence)
        self._layouts.ended(sequence)
        slot, sequence.slot = sequence.slot, None
        if not keep:
            return self._cache.discard(slot)
        self._publish(sequence, slot, sequence.num_computed_tokens)
        return self._cache.retire(slot, sequence.num_computed_tokens)

    def pin(self, sequence: CachedSequence) -> tuple[Operation, ...]:
        """Its prompt has been computed, and nothing after it: that is kept for everybody."""
        assert sequence.slot is not None, "what is computed has a slot"
        return self._cache.pin(sequence.slot)

    def stored(self, key: int, size: int) -> tuple[Operation, ...]:
        """What a `Keep` has copied takes so many bytes."""
        return self._cache.stored(key, size)

    def slim(self) -> tuple[Operation, ...]:
        """Gives up one of the prefixes that slow every step down; nothing when there are none.

        The newest one stays until somebody else has come.
        """
        crowded = self._joined and bool(self.running)
        operations = self._cache.slim(0 if crowded else 1)
        self._joined = crowded and bool(operations)
        return operations

    def clear_cache(self) -> tuple[Operation, ...]:
        """Gives up what is kept for sequences to come."""
        return self._cache.clear()

    def plan(self, now: float) -> Plan:
        """Admits what fits and decides the next step; without chunks when there is no work."""
        layout = self._layouts.wanted(self.waiting)
        if layout is not self._layouts.layout and self._layouts.can_move(self.running):
            return Plan(self.clear_cache(), layout=layout)
        operations = list(self._snapshots())
        if layout is self._layouts.layout or not self._layouts.drains(self.running, self.waiting):
            operations += self._admit(now)
        chunks = sorted(self._chunks(), key=lambda chunk: chunk.sequence.slot or 0)
        return Plan(tuple(operations), tuple(chunks))

    def laid_out(self, layout: Layout) -> list[tuple[int, CachedSequence]]:
        """The KV buffer is a new one, in that layout.

        Returns:
            Running sequences, each in a new slot, with the slots that they had.
        """
        self._layouts.changed(layout)
        self.pace.laid_out(separate=layout is Layout.SEPARATE)
        whole = self._whole_room
        if layout is Layout.SEPARATE:  # nothing is shared, so there is nothing to keep
            cells = whole.max_num_seqs * self._layouts.slot_cells
            self._room = replace(whole, cache_slots=0, kv_capacity=cells)
        else:
            self._room = whole
        self._cache = PrefixCache(self._room, self._kept)
        return [self._move(sequence) for sequence in self.running]

    def _move(self, sequence: CachedSequence) -> tuple[int, CachedSequence]:
        before, done = sequence.slot, sequence.num_computed_tokens
        assert before is not None, "a running sequence has a slot"
        _, sequence.slot = self._cache.take(None, (), sequence.request.cache_salt)
        self._publish(sequence, sequence.slot, min(done, sequence.num_prompt_tokens))
        self._cache.reach(sequence.slot, done)
        return before, sequence

    def computed(self, chunk: Chunk) -> None:
        """The chunk lies in the KV buffer now."""
        sequence = chunk.sequence
        was_prefilling = sequence.is_prefilling
        sequence.num_computed_tokens += len(chunk.token_ids)
        assert sequence.slot is not None, "what is computed has a slot"
        self._cache.reach(sequence.slot, sequence.num_computed_tokens)
        if was_prefilling:
            done = min(sequence.num_computed_tokens, sequence.num_prompt_tokens)
            self._publish(sequence, sequence.slot, done)

    def guessed(self, chunk: Chunk, right: int) -> tuple[Operation, ...]:
        """So many of its guesses became part of the sequence; the others leave the KV buffer."""
        sequence = chunk.sequence
        assert sequence.slot is not None, "what is computed has a slot"
        assert sequence.lookup is not None, "somebody has guessed"
        price = self.pace.price(self.num_decoding)
        sequence.lookup.judge(len(chunk.guesses), right, sequence.num_tokens, price)
        sequence.num_computed_tokens += right
        self._cache.reach(sequence.slot, sequence.num_computed_tokens)
        wrong = right < len(chunk.guesses)
        return (Cut(sequence.slot, sequence.num_computed_tokens),) if wrong else ()

    @property
    def num_decoding(self) -> int:
        """Running sequences that are past their prompt."""
        return sum(not sequence.is_prefilling for sequence in self.running)

    def _publish(self, sequence: CachedSequence, slot: int, length: int) -> None:
        """Lets others find the first `length` tokens of a slot."""
        token_ids = sequence.token_ids[self._cache.length(slot) : length]
        self._cache.publish(slot, token_ids, sequence.request.cache_salt)

    # -- admission ---------------------------------------------------------------------------

    def _admit(self, now: float) -> Iterator[Operation]:
        for sequence in self._by_rank(now):
            if len(self.running) == self._room.max_num_seqs:
                return
            if _still_awaits(sequence):
                continue
            if sequence.reserved_cells > self._layouts.most_cells:
                return  # it waits for the cells to be shared again
            match = self._cache.find(sequence.lendable_ids, sequence.request.cache_salt)
            if self._better_waits(sequence, match):
                continue
            operations, fits = self._make_room(sequence, match)
            yield from operations
            if not fits and isinstance(match, KeptMatch):
                # A state is loaded as a whole, and then cut: computing needs less room.
                match = self._cache.find_shared(sequence.lendable_ids, sequence.request.cache_salt)
                operations, fits = self._make_room(sequence, match)
                yield from operations
            if not fits and match is not None and not self.running:
                # The lender itself is in the way: better without it than never.
                match = None
                operations, fits = self._make_room(sequence, match)
                yield from operations
            if not fits:
                return  # first come, first served: a smaller one behind it does not overtake
            self.waiting.remove(sequence)
            request = sequence.request
            operations, slot = self._cache.take(match, sequence.lendable_ids, request.cache_salt)
            yield from operations
            sequence.start_in(slot, match.length if match else 0, now)
            self.running.append(sequence)
            self._joined = True

    def _by_rank(self, now: float) -> list[CachedSequence]:
        """Waiting sequences: what goes on, what is interactive, the rest; as they have arrived."""
        waiting = list(self.waiting)
        if len(self.running) < self._room.max_num_seqs:
            waiting.sort(key=lambda s: _rank(s, now))
        return waiting

    def _make_room(
        self, sequence: CachedSequence, match: Lender
    ) -> tuple[tuple[Operation, ...], bool]:
        promised = sum(self._promised(other) for other in self.running)
        needed = promised + sequence.reserved_cells
        if isinstance(match, Match):
            needed -= match.length
        elif match is not None:
            needed = promised + max(sequence.reserved_cells, match.cells)
        operations, free = self._cache.free_cells(needed, keep=match)
        return operations, free >= needed

    def _promised(self, sequence: CachedSequence) -> int:
        """Cells reserved for a running sequence that the cache's tree does not count."""
        assert sequence.slot is not None, "a running sequence has a slot"
        return sequence.reserved_cells - self._cache.length(sequence.slot)

    def _better_waits(self, sequence: CachedSequence, match: Lender) -> bool:
        """Whether a running sequence will soon hold more of this one's prompt."""
        if not self._room.cache_slots:
            return False
        have = match.length if match else 0
        for other in self.running:
            length = self._will_lend(other, sequence)
            if length - have >= WORTH_WAITING:
                if self._loses_its_past(other):
                    other.checkpoints.add(length)
                sequence.awaits = other, length
                return True
        return False

    def _will_lend(self, other: CachedSequence, sequence: CachedSequence) -> int:
        """How much of the prompt a sequence that is still prefilling will be able to lend."""
        same_tree = other.request.cache_salt == sequence.request.cache_salt
        if not (same_tree and other.is_prefilling):
            return 0
        prompt = sequence.request.prompt_token_ids
        # Not its last token, which has to be computed for its logits.
        length = min(common_length(prompt, other.request.prompt_token_ids), len(prompt) - 1)
        bound = self._cache.longest_share
        beyond = bound is not None and length > bound
        return 0 if length <= other.num_computed_tokens or beyond else length

    # -- what to keep ------------------------------------------------------------------------

    def _snapshots(self) -> Iterator[Operation]:
        """Keeps states that their sequences are about to leave behind."""
        for sequence in self.running:
            length = sequence.num_computed_tokens
            if length not in sequence.checkpoints or sequence.slot is None:
                continue
            sequence.checkpoints.discard(length)
            if self._loses_its_past(sequence) and self._cache.length(sequence.slot) == length:
                yield from self._cache.snapshot(sequence.slot)

    def _loses_its_past(self, sequence: CachedSequence) -> bool:
        window = self._room.window
        return window is not None and sequence.reserved_cells >= window

    # -- the batch ---------------------------------------------------------------------------

    def _chunks(self) -> Iterator[Chunk]:
        decoding = [s for s in self.running if not s.is_prefilling]
        budget, guesses = self._max_tokens_per_step, MOST_GUESSES
        price = self.pace.price(len(decoding))
        for index, sequence in enumerate(decoding):
            # A long forced stretch must not take the one token that others still need.
            kept_back = len(decoding) - index - 1
            count = min(sequence.num_pending_tokens, budget - kept_back)
            budget -= count
            chunk = chunk_of(sequence, count)
            if chunk.samples and guesses > 0:
                most = min(guesses, max(1, MOST_GUESSES // len(decoding)), budget - kept_back)
                if found := sequence.guess(most, price):
                    guesses, budget = guesses - len(found), budget - len(found)
                    chunk = replace(chunk, guesses=found)
            yield chunk
        prefilling = [s for s in self.running if s.is_prefilling]
        if prefilling:
            pending = sum(sequence.num_pending_tokens for sequence in prefilling)
            taken = self._max_tokens_per_step - budget
            beside = Beside(len(decoding), taken, len(prefilling), pending)
            budget = self.pace.prompt_tokens(beside, budget)
            for sequence, count in self._shares(prefilling, budget):
                yield chunk_of(sequence, count)

    def _shares(
        self, prefilling: list[CachedSequence], budget: int
    ) -> Iterator[tuple[CachedSequence, int]]:
        if self.layout is Layout.UNIFIED:
            return shares(prefilling, budget)
        self._shortest = not self._shortest
        return in_turn(prefilling, budget, shortest=self._shortest)


def _rank(sequence: CachedSequence, now: float) -> int:
    request = sequence.request
    if request.background and now - sequence.arrived < PATIENCE:
        return 2
    return 0 if request.goes_on else 1


def _still_awaits(sequence: CachedSequence) -> bool:
    """Whether what it was found to wait for is still to come."""
    if sequence.awaits is None:
        return False
    other, length = sequence.awaits
    if other.status is Status.RUNNING and other.num_computed_tokens < length:
        return True
    sequence.awaits = None
    return False
