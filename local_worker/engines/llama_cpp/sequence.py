"""A sequence and its place in llama.cpp's KV cache. Pure, like `process.sequence`.

A sequence has no prefill phase and no decode phase: `num_computed_tokens` chases `num_tokens`.
Between steps, a running sequence lacks exactly its newest tokens: one sampled token, a forced
stretch, or what is left of its prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_worker.engines.process.sequence import Sequence

if TYPE_CHECKING:
    from local_worker.types import GenerationRequest


class CachedSequence(Sequence):
    """A sequence with cells in the KV cache.

    Attributes:
        num_computed_tokens: how many of its tokens are in the cache.
        slot: the KV sequence it owns while running.
    """

    def __init__(self, request: GenerationRequest, now: float) -> None:
        super().__init__(request, now)
        self.slot: int | None = None
        self.num_computed_tokens = 0

    @property
    def num_pending_tokens(self) -> int:
        """Tokens known but not computed."""
        return self.num_tokens - self.num_computed_tokens

    @property
    def is_prefilling(self) -> bool:
        """Whether part of the prompt is still to be computed."""
        return self.num_computed_tokens < len(self.request.prompt_token_ids)

    @property
    def reserved_cells(self) -> int:
        """KV cells it needs at its longest. Reserved at admission: it can never run out."""
        return len(self.request.prompt_token_ids) + self.request.max_tokens

    def start_in(self, slot: int, now: float) -> None:
        """WAITING -> RUNNING, in a slot of its own."""
        self.start(now)
        self.slot = slot
