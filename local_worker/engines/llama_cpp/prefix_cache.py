"""Slots of the KV buffer: running, cached or free, and which of them lends what. Pure.

FREE -> RUNNING -> CACHED -> FREE      RUNNING -> FREE      FREE -> CACHED (a snapshot)

A finished sequence's slot stays as it is and lends what it holds, until its cells or the slot
itself are needed: least recently used first. Every cell in use makes every step a little slower,
used by it or not, so the cache has limits of its own: what costs little may stay, and beside it the
newest one if it is not too large, since a conversation is likely to go on from there.

Nothing is done here: every change of slots is returned as operations, to be carried out on the
buffer in that order, before the next batch is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_worker.engines.llama_cpp.radix import PrefixTree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_worker.engines.llama_cpp.radix import Match


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


Operation = Share | Cut


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


class PrefixCache:
    """All slots of one KV buffer."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._tree = PrefixTree(room.window)
        self._free = list(range(room.max_num_seqs + room.cache_slots - 1, -1, -1))
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

    def find(self, token_ids: Sequence[int], salt: str) -> Match | None:
        """The longest prefix of these tokens that some slot lends."""
        match = self._tree.match(token_ids, salt) if self._room.cache_slots else None
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

    def free_cells(self, needed: int, *, keep: Match | None) -> tuple[tuple[Operation, ...], int]:
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

    def take(self, match: Match | None) -> tuple[tuple[Operation, ...], int]:
        """A slot for a new sequence, with the match in it. Returns operations and the slot."""
        operations: list[Operation] = []
        if not self._free:
            evictable = self._evictable(match)
            assert evictable, "more sequences run than there are slots for"
            operations += self._evict(evictable[0])
        slot = self._free.pop()
        if match is not None:
            self._touch(match.slot)
            self._tree.share(match.slot, slot, match.length)
            operations.append(Share(match.slot, slot, match.length))
        return tuple(operations), slot

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
        copy = self._free.pop()
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
            return self.discard(slot)  # instead of pushing everything else out first
        operations: list[Operation] = [] if whole else [Cut(slot, length)]
        self._tree.reach(slot, length)
        self._cached[slot] = None
        if window is None:
            operations += self._evict_contained(slot)
        while len(self._cached) > self._room.cache_slots or (
            len(self._cached) > 1 and self.cached_cells() > self._room.cheap_cells
        ):
            operations += self._evict(next(iter(self._cached)))
        return tuple(operations)

    def discard(self, slot: int) -> tuple[Operation, ...]:
        """A sequence has ended and leaves nothing behind."""
        self._tree.drop(slot)
        self._free.append(slot)
        return (Cut(slot),)

    def clear(self) -> tuple[Operation, ...]:
        """Evicts all that is cached."""
        return tuple(o for slot in tuple(self._cached) for o in self._evict(slot))

    def _evict_contained(self, slot: int) -> tuple[Operation, ...]:
        """Of two cached slots, one of which begins like the other, the longer one lends it all."""
        for other in [other for other in self._cached if other != slot]:
            if other in self._tree.holders(slot):
                self._touch(other)
                return self._evict(slot)
        shorter = [s for s in self._cached if s != slot and slot in self._tree.holders(s)]
        return tuple(operation for s in shorter for operation in self._evict(s))

    def _evictable(self, keep: Match | None) -> list[int]:
        """Cached slots but the one to keep, the least recently used one first."""
        kept = keep.slot if keep is not None else None
        return [slot for slot in self._cached if slot != kept]

    def _evict(self, slot: int) -> tuple[Operation, ...]:
        del self._cached[slot]
        return self.discard(slot)

    def _touch(self, slot: int) -> None:
        if slot in self._cached:
            del self._cached[slot]
            self._cached[slot] = None
