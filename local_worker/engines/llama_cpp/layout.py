"""One KV buffer for all sequences, or one for each: which suits the load. Pure.

    UNIFIED -> (DRAINING) -> SEPARATE -> (DRAINING) -> UNIFIED

In a unified buffer sequences share what they have in common, cell by cell, and every row looks,
masked, at all cells in use: 32 sequences that share nothing decode at two thirds of the speed that
they have in buffers of their own. There, nothing is shared, and a sequence has no more room than
its part. So the layout follows the prompts that come. What runs is copied out and into the new
buffer; where that is too much, nobody is admitted until those that run are done, if that is soon.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from local_worker.tokens import common_length

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from local_worker.engines.llama_cpp.sequence import CachedSequence

BLOCK = 256
"""Cells by which llama.cpp makes buffers."""

RECENT = 32
"""Prompts that a new one is compared with."""

ENOUGH = 12
"""Prompts to have seen before anything is changed."""

LEARNING = 0.06
"""Weight of the newest prompt."""

SHARES_LITTLE, SHARES_MUCH = 0.1, 0.3
"""Of a prompt, what an earlier one has begun with: below the first, and above the second."""

MANY = 6
"""Sequences at a time from which on it matters."""

SOON = 256
"""Tokens that running sequences may still have before them when a change is to wait for them."""


MOVABLE = 2048
"""Tokens of running sequences that are copied at a time: half a second, and 0.5 GB at the most."""


class Layout(Enum):
    """Of the KV cells."""

    UNIFIED = "unified"
    SEPARATE = "separate"


class LayoutChooser:
    """Watches the prompts.

    Args:
        layout: to begin with.
        slots: sequences at a time.
        kv_capacity: cells of all of them.
        fixed: whether the layout stays as it is.

    Attributes:
        slot_cells: of a sequence where each has its own.
    """

    def __init__(
        self, layout: Layout, slots: int, kv_capacity: int, *, fixed: bool = False
    ) -> None:
        self.layout = layout
        self._slots = slots
        self._kv_capacity = kv_capacity
        self.slot_cells = slot_cells(slots, kv_capacity)
        self._fixed = fixed
        self._recent: deque[tuple[str, Sequence[int]]] = deque(maxlen=RECENT)
        self._shared = 0.0
        self._together = 0.0
        self._seen = 0

    @property
    def most_cells(self) -> int:
        """Of one sequence, in the present layout."""
        return self.slot_cells if self.layout is Layout.SEPARATE else self._kv_capacity

    @property
    def shared(self) -> float:
        """Of a prompt, what an earlier one has begun with."""
        return self._shared

    def observe(self, sequence: CachedSequence, together: int) -> None:
        """A request has come, the last of so many that wait or run."""
        if self._fixed:
            return
        prompt, salt = sequence.request.prompt_token_ids, sequence.request.cache_salt
        alike = (common_length(prompt, other) for whose, other in self._recent if whose == salt)
        share = max(alike, default=0) / len(prompt)
        self._recent.append((salt, prompt))
        weight = max(LEARNING, 1 / (self._seen + 1))
        self._shared += weight * (share - self._shared)
        self._together += weight * (together - self._together)
        self._seen += 1

    def changed(self, layout: Layout) -> None:
        """The layout is that one now; what is to change it again is learnt anew."""
        self.layout = layout
        self._seen = 0

    def wanted(self, waiting: Iterable[CachedSequence]) -> Layout:
        """The layout that suits what has come, and what waits."""
        if self._fixed:
            return self.layout
        if any(s.reserved_cells > self.slot_cells or s.request.pinned for s in waiting):
            return Layout.UNIFIED
        if self.layout is Layout.SEPARATE:
            much = self._seen >= ENOUGH and self._shared > SHARES_MUCH
            return Layout.UNIFIED if much else Layout.SEPARATE
        little = self._seen >= ENOUGH and self._shared < SHARES_LITTLE
        many = min(self._together, self._slots) >= MANY
        return Layout.SEPARATE if little and many else Layout.UNIFIED

    def can_move(self, running: Sequence[CachedSequence]) -> bool:
        """Whether the layout can change under those that run."""
        tokens = sum(s.num_computed_tokens for s in running)
        longest = max((s.reserved_cells for s in running), default=0)
        to_separate = self.layout is Layout.UNIFIED
        if any(s.request.pinned for s in running):
            return False  # what is to be kept for good has to be found in the end
        return tokens <= MOVABLE and not (to_separate and longest > self.slot_cells)

    def drains(self, running: Iterable[CachedSequence], waiting: Sequence[CachedSequence]) -> bool:
        """Whether to admit nobody, so that the layout can change soon."""
        if self.wanted(waiting) is self.layout:
            return False
        if self.layout is Layout.SEPARATE:
            first = next(iter(waiting), None)
            if first is not None and first.reserved_cells > self.slot_cells:
                return True  # it cannot be admitted anyway, nor does anybody overtake it
        left = (s.reserved_cells - s.num_computed_tokens for s in running)
        return max(left, default=0) <= SOON


def slot_cells(slots: int, kv_capacity: int) -> int:
    """Cells of each sequence where each has a buffer of its own; 0 where they are too few."""
    return kv_capacity // slots // BLOCK * BLOCK
