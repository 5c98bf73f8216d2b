"""One KV buffer for all sequences, or one for each: which suits the load. Pure.

    UNIFIED -> (DRAINING) -> SEPARATE -> (DRAINING) -> UNIFIED

In a unified buffer sequences share what they have in common, cell by cell, and every row looks,
masked, at all cells in use: 32 sequences that share nothing decode at two thirds of the speed that
they have in buffers of their own, and so do eight that write 200 tokens each. There, nothing is
shared, and a sequence has no more room than its part. So the layout follows the jobs that come.
What runs is copied out and into the new buffer; where that is too much, nobody is admitted until
those that run are done, if that is soon.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

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

LATEST = 64
"""Jobs whose mean is what jobs are like."""

FOREIGN = 1 / 1600
"""What a row takes to look at a cell of somebody else's, of what a prompt's token takes: 1.3 us of
2.1 ms (0.6B shape, benchmarks/results/decode-0.6b.md)."""

OUTPUT = 2.0
"""What an output's token takes, likewise, in a step of several."""

USUAL_OUTPUT = 64
"""Tokens of an answer, before any was seen."""

MATTERS = 0.05
"""Of a job's work: less is not worth a change."""

SOON = 256
"""Tokens that running sequences may still have before them when a change is to wait for them."""


MOVABLE = 2048
"""Tokens of running sequences that are copied at a time: half a second, and 0.5 GB at the most."""


class Layout(Enum):
    """Of the KV cells."""

    UNIFIED = "unified"
    SEPARATE = "separate"


class Job(NamedTuple):
    """What jobs are like.

    Attributes:
        shared: tokens of the prompt that an earlier one has begun with.
        own: the prompt's other tokens.
        output: tokens of the answer.
        together: jobs at a time.
    """

    shared: float
    own: float
    output: float
    together: float


def advantage(job: Job) -> float:
    """Of a job's work, what cells of its own save; below 0 where they cost.

    The rows of its answer look at fewer cells of others. In exchange what it shares is computed
    again.
    """
    others = max(job.together - 1, 0) * (job.own + job.output / 2)
    saved = FOREIGN * others * job.output
    return (saved - job.shared) / (job.shared + job.own + OUTPUT * job.output)


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
        self._jobs: deque[Job] = deque(maxlen=LATEST)
        self._outputs: deque[int] = deque(maxlen=LATEST)
        self._gained = 0.0
        self._seen = 0

    @property
    def most_cells(self) -> int:
        """Of one sequence, in the present layout."""
        return self.slot_cells if self.layout is Layout.SEPARATE else self._kv_capacity

    def observe(self, sequence: CachedSequence, together: int) -> None:
        """A request has come, the last of so many that wait or run."""
        if self._fixed:
            return
        prompt, salt = sequence.request.prompt_token_ids, sequence.request.cache_salt
        alike = (common_length(prompt, other) for whose, other in self._recent if whose == salt)
        shared = max(alike, default=0)
        self._recent.append((salt, prompt))
        output = min(sequence.request.max_tokens, USUAL_OUTPUT)
        self._jobs.append(Job(shared, len(prompt) - shared, output, min(together, self._slots)))
        self._seen += 1
        self._judge()

    def ended(self, sequence: CachedSequence) -> None:
        """A request is over: that is how long answers are, unless it never came to one."""
        if (tokens := sequence.num_tokens - sequence.num_prompt_tokens) > 0:
            self._outputs.append(tokens)
            self._judge()

    def _judge(self) -> None:
        if not self._jobs:
            return
        usual = Job(*(fmean(values) for values in zip(*self._jobs, strict=True)))
        output = fmean(self._outputs) if self._outputs else usual.output
        self._gained = advantage(usual._replace(output=output))

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
        if self._seen < ENOUGH:
            return self.layout
        if self.layout is Layout.SEPARATE:
            return Layout.UNIFIED if self._gained < -MATTERS else Layout.SEPARATE
        return Layout.SEPARATE if self._gained > MATTERS else Layout.UNIFIED

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
