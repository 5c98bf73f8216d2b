"""Which sequences get how many tokens in the next step. Pure: decides and obeys, computes nothing.

Each step hands out a token budget: sequences past their prompt first (their next token, or a
forced stretch), then prompt chunks, of which there are only so many while others decode that their
next tokens come in time. Of those, half go to the shortest prompts and the rest to the oldest, so
that a short job is not stuck behind a long prompt, nor the long one behind many short ones.

Interactive requests are admitted before background ones, which count as interactive once they have
waited for `PATIENCE` seconds: they never starve. Admission reserves KV cells for prompt and
max_tokens, so a running sequence never lacks room and none ever has to be thrown out; a sequence
for which there is no room waits, in order of arrival.

A prompt that begins like one that is just being computed waits for it instead of computing the same
tokens: requests that come together with one long system prompt compute it once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from local_worker.engines.llama_cpp.kept import KeptMatch
from local_worker.engines.llama_cpp.layout import Layout, LayoutChooser
from local_worker.engines.llama_cpp.pace import Pace
from local_worker.engines.llama_cpp.prefix_cache import PrefixCache
from local_worker.engines.llama_cpp.radix import Match
from local_worker.engines.llama_cpp.shapes import fitting
from local_worker.engines.process.sequence import Status
from local_worker.engines.process.work import Part
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

    def part(self) -> Part:
        """What of a step it is; to be asked before it counts as computed."""
        count = len(self.token_ids)
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

    def _publish(self, sequence: CachedSequence, slot: int, length: int) -> None:
        """Lets others find the first `length` tokens of a slot."""
        token_ids = sequence.token_ids[self._cache.length(slot) : length]
        self._cache.publish(slot, token_ids, sequence.request.cache_salt)

    # -- admission ---------------------------------------------------------------------------

    def _admit(self, now: float) -> Iterator[Operation]:
        running = len(self.running)
        yield from self._admit_in_turn(now)
        if len(self.running) > running:
            yield from self._cache.slim()

    def _admit_in_turn(self, now: float) -> Iterator[Operation]:
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
        budget = self._max_tokens_per_step
        for index, sequence in enumerate(decoding):
            # A long forced stretch must not take the one token that others still need.
            kept_back = len(decoding) - index - 1
            count = min(sequence.num_pending_tokens, budget - kept_back)
            budget -= count
            yield _chunk(sequence, count)
        prefilling = [s for s in self.running if s.is_prefilling]
        taken = self._max_tokens_per_step - budget
        allowed = self.pace.prompt_tokens(len(decoding), budget, max(1, len(prefilling)))
        budget = fitting(taken, allowed)
        for sequence, count in _shares(prefilling, budget):
            yield _chunk(sequence, count)


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


def _shares(prefilling: list[CachedSequence], budget: int) -> Iterator[tuple[CachedSequence, int]]:
    """Who computes how much of its prompt: half for the shortest, what is left for the oldest."""
    counts = dict.fromkeys(prefilling, 0)
    shortest_first = sorted(prefilling, key=lambda s: s.num_pending_tokens)
    for sequences, share in ((shortest_first, budget // 2), (prefilling, budget)):
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


def _chunk(sequence: CachedSequence, count: int) -> Chunk:
    start = sequence.num_computed_tokens
    token_ids = tuple(sequence.token_ids[start : start + count])
    return Chunk(sequence, start, token_ids, start + count == sequence.num_tokens)
