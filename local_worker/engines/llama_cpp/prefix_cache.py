"""Slots of the KV buffer: running, cached or free, and which of them lends what. Pure.

FREE -> RUNNING -> CACHED -> FREE      RUNNING -> FREE      FREE -> CACHED (a snapshot)

A finished sequence's slot stays as it is and lends what it holds, until its cells or the slot
itself are needed: least recently used first. Every cell in use makes every step a little slower,
used by it or not, so the cache has limits of its own: what costs little may stay, and beside it the
newest one if it is not too large, since a conversation is likely to go on from there - until
something else comes instead. The others go one by one, since a copy takes as long as a step and
everybody waits for it. What is worth it is copied out of the buffer before it is given up,
and back when it is asked for, which takes a hundredth of computing it: see `kept`.

Nothing is done here: every change of slots is returned as operations, to be carried out on the
buffer in that order, before the next batch is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_worker.engines.llama_cpp.kept import (
    WORTH_KEEPING,
    Drop,
    Keep,
    KeptMatch,
    KeptPrefixes,
    Load,
    Prefix,
)
from local_worker.engines.llama_cpp.radix import Match, PrefixTree

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Share:
    """`slot` gets the first `length` tokens of `source`, without computing them."""

    source: int
    slot: int
    length: int


@dataclass(frozen=True, slots=True)
class Cut:
    """`slot` keeps its first `length` tokens; 0 forgets all of them."""

    slot: int
    length: int = 0


Operation = Share | Cut | Keep | Load | Drop


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to share out.

    Attributes:
        max_num_seqs: sequences that run at a time.
        cache_slots: slots beyond those; without any, nothing is cached.
        kv_capacity: cells.
        max_cached_cells: that the newest cached slot may hold beside what running ones use.
        cheap_cells: that all cached slots together may hold.
        window: see `PrefixTree`.
    """

    max_num_seqs: int
    cache_slots: int
    kv_capacity: int
    max_cached_cells: int
    cheap_cells: int
    window: int | None = None


Lender = Match | KeptMatch | None
"""Where the beginning of a prompt comes from."""


class PrefixCache:
    """All slots of one KV buffer.

    Args:
        room: slots and cells.
        kept: what lies outside of the buffer.
    """

    def __init__(self, room: Room, kept: KeptPrefixes | None = None) -> None:
        self._room = room
        self._kept = kept or KeptPrefixes(0)
        self._lenders: set[int] = set()
        self._tree = PrefixTree(room.window)
        self._free = set(range(room.max_num_seqs + room.cache_slots))
        self._cached: dict[int, None] = {}  # least recently used first

    @property
    def cells(self) -> int:
        """Cells that slots hold, shared ones once."""
        return self._tree.size

    @property
    def cached_slots(self) -> tuple[int, ...]:
        """Least recently used first."""
        return tuple(self._cached)

    def cached_cells(self) -> int:
        """Cells that only cached slots hold."""
        return self._tree.held_only_by(self._cached.keys())

    def length(self, slot: int) -> int:
        """Tokens of a slot that others can find."""
        return self._tree.length(slot)

    def find(self, token_ids: Sequence[int], salt: str) -> Match | KeptMatch | None:
        """The longest prefix of these tokens that some slot lends, or a longer one that is kept."""
        if not self._room.cache_slots:
            return None
        match = self.find_shared(token_ids, salt)
        kept = self._kept.find(token_ids, salt)
        have = match.length if match is not None else 0
        # Sharing copies nothing and takes no cells: a little more is not worth loading.
        return kept if kept is not None and kept.length >= have + WORTH_KEEPING else match

    def find_shared(self, token_ids: Sequence[int], salt: str) -> Match | None:
        """The longest prefix of these tokens that some slot lends."""
        match = self._tree.match(token_ids, salt)
        return match if match is not None and self._may_share(match.slot, match.length) else None

    @property
    def longest_share(self) -> int | None:
        """Tokens that slots can share at the most; None is no bound.

        llama.cpp keeps a pool of cells for windowed layers, a window for each slot, and takes a
        cell back when its window has passed, unless several slots hold it. Copying a slot copies
        all its cells there, passed ones too, and nothing in its interface takes only those away.
        So there are more windows than slots, and what is shared must fit the additional ones.
        """
        window = self._room.window
        return window * self._room.cache_slots if window else None

    def _may_share(self, slot: int, length: int) -> bool:
        bound = self.longest_share
        return bound is None or self._tree.shared_after(slot, length) <= bound

    def free_cells(self, needed: int, *, keep: Lender) -> tuple[tuple[Operation, ...], int]:
        """Evicts until so many cells are in nobody's hands, or nothing is left to evict.

        Args:
            needed: cells of the buffer that the tree must not hold.
            keep: whose slot must stay.

        Returns:
            Operations, and the cells that the tree does not hold now.
        """
        free = self._room.kv_capacity - self.cells
        if free >= needed:
            return (), free
        evictable = self._evictable(keep)
        if free + self._tree.held_only_by(set(evictable)) < needed:
            return (), free  # all of it would not be enough
        operations: list[Operation] = []
        while free < needed:
            operations += self._evict(evictable.pop(0))
            free = self._room.kv_capacity - self.cells
        return tuple(operations), free

    def take(
        self, match: Lender, token_ids: Sequence[int], salt: str
    ) -> tuple[tuple[Operation, ...], int]:
        """A slot for a new sequence, with the match in it. Returns operations and the slot.

        Args:
            match: what `find` has found of the prompt.
            token_ids: of the prompt.
            salt: whose it is.
        """
        operations: list[Operation] = []
        if not self._free:
            evictable = self._evictable(match)
            assert evictable, "more sequences run than there are slots for"
            operations += self._evict(evictable[0])
        slot = self._lowest_free()
        if isinstance(match, Match):
            self._touch(match.slot)
            self._lenders.add(match.slot)
            self._tree.share(match.slot, slot, match.length)
            operations.append(Share(match.slot, slot, match.length))
        elif match is not None:
            self._kept.touch(match.key)
            # Somebody needed it again: it is worth keeping again, should it have gone meanwhile.
            self._lenders.add(slot)
            self._tree.extend(slot, tuple(token_ids[: match.length]), salt)
            operations.append(Load(match.key, slot, match.length))
        return tuple(operations), slot

    def slim(self, least: int) -> tuple[Operation, ...]:
        """Evicts one of those that slow every step down; nothing when there are none.

        Args:
            least: slots that stay, whatever they hold.
        """
        if len(self._cached) <= least or self.cached_cells() <= self._room.cheap_cells:
            return ()
        return self._evict(next(iter(self._cached)))

    def _lowest_free(self) -> int:
        """Where slots have buffers of their own, those of neighbours are computed together."""
        slot = min(self._free)
        self._free.remove(slot)
        return slot

    def reach(self, slot: int, length: int) -> None:
        """A running slot has computed so many tokens, known to the tree or not."""
        if self._room.cache_slots:
            self._tree.reach(slot, length)

    def publish(self, slot: int, token_ids: Sequence[int], salt: str) -> None:
        """Lets others find tokens that a slot holds beyond those that they can find already."""
        if self._room.cache_slots:
            self._tree.extend(slot, token_ids, salt)

    def snapshot(self, slot: int) -> tuple[Operation, ...]:
        """Keeps what a running slot holds now, for when it has gone on."""
        length = self._tree.length(slot)
        if not self._may_share(slot, length):
            return ()
        operations: list[Operation] = []
        if len(self._cached) >= self._room.cache_slots:
            if not self._cached:
                return ()
            operations += self._evict(next(iter(self._cached)))
        copy = self._lowest_free()
        self._tree.share(slot, copy, length)
        self._cached[copy] = None
        operations.append(Share(slot, copy, length))
        return tuple(operations)

    def retire(self, slot: int, num_computed_tokens: int) -> tuple[Operation, ...]:
        """A sequence has ended: its slot is cached, as far as others can find it."""
        length, window = self._tree.length(slot), self._room.window
        whole = length == num_computed_tokens
        if not length or not (whole or window is None or num_computed_tokens < window):
            return self.discard(slot)
        if self._tree.exclusive(slot) > self._room.max_cached_cells:
            return self._give_up(slot)  # instead of pushing everything else out first
        operations: list[Operation] = [] if whole else [Cut(slot, length)]
        self._tree.reach(slot, length)
        self._cached[slot] = None
        if window is None:
            operations += self._evict_contained(slot)
        while len(self._cached) > self._room.cache_slots:
            operations += self._evict(next(iter(self._cached)))
        return tuple(operations)

    def discard(self, slot: int) -> tuple[Operation, ...]:
        """A sequence has ended and leaves nothing behind."""
        self._tree.drop(slot)
        self._free.add(slot)
        self._lenders.discard(slot)
        return (Cut(slot),)

    def pin(self, slot: int) -> tuple[Operation, ...]:
        """What a running slot holds now is kept for everybody, for good."""
        return self._keep(slot, Prefix(self._tree.tokens(slot), None))

    def stored(self, key: int, size: int) -> tuple[Operation, ...]:
        """What a `Keep` has copied takes so many bytes."""
        return self._kept.stored(key, size)

    def clear(self) -> tuple[Operation, ...]:
        """Evicts all that is cached."""
        return tuple(o for slot in tuple(self._cached) for o in self._evict(slot))

    def _evict_contained(self, slot: int) -> tuple[Operation, ...]:
        """Of two cached slots, one of which begins like the other, the longer one lends it all."""
        for other in [other for other in self._cached if other != slot]:
            if other in self._tree.holders(slot):
                self._touch(other)
                return self._merge(slot, other)
        shorter = [s for s in self._cached if s != slot and slot in self._tree.holders(s)]
        return tuple(operation for s in shorter for operation in self._merge(s, slot))

    def _merge(self, slot: int, longer: int) -> tuple[Operation, ...]:
        """Nothing is lost with this slot: the longer one has it all."""
        if slot in self._lenders:
            self._lenders.add(longer)
        del self._cached[slot]
        return self.discard(slot)

    def _evictable(self, keep: Lender) -> list[int]:
        """Cached slots but the one to keep, the least recently used one first."""
        kept = keep.slot if isinstance(keep, Match) else None
        return [slot for slot in self._cached if slot != kept]

    def _evict(self, slot: int) -> tuple[Operation, ...]:
        del self._cached[slot]
        return self._give_up(slot)

    def _give_up(self, slot: int) -> tuple[Operation, ...]:
        prefix = Prefix(self._tree.tokens(slot), self._tree.salt(slot))
        if self._room.window is None and self._tree.exclusive(slot) < WORTH_KEEPING:
            return self._leave_to_sharers(slot, prefix)
        return (*self._keep(slot, prefix), *self.discard(slot))

    def _leave_to_sharers(self, slot: int, prefix: Prefix) -> tuple[Operation, ...]:
        """Most of it stays, in slots that share it."""
        lent = slot in self._lenders
        operations = self.discard(slot)
        sharer = self._tree.match(prefix.token_ids, prefix.salt or "")
        if lent and sharer is not None:
            self._lenders.add(sharer.slot)
        return operations

    def _keep(self, slot: int, prefix: Prefix) -> tuple[Operation, ...]:
        if not self._kept.is_worth_it(prefix, lent=slot in self._lenders):
            return ()
        return (Keep(slot, self._kept.add(prefix), prefix),)

    def _touch(self, slot: int) -> None:
        if slot in self._cached:
            del self._cached[slot]
            self._cached[slot] = None
