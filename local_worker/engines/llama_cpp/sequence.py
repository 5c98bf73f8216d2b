"""A sequence as the scheduler sees it: how far it has been computed, and where. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_worker.engines.process.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from collections.abc import Sequence as Items

    from local_worker.engines.llama_cpp.guides import GrammarGuide
    from local_worker.engines.llama_cpp.lookup import PromptLookup
    from local_worker.types import GenerationRequest


class CachedSequence(Sequence):
    """State of one request in this engine.

    `num_computed_tokens` chases `num_tokens`; nothing else tells prefill from decode.

    Attributes:
        slot: its place in the KV buffer while it is running.
        num_computed_tokens: how many of `token_ids` lie in the KV buffer.
        checkpoints: lengths at which a chunk has to end, so that the state there can be kept.
        lookup: guesses its next tokens; None where nothing is guessed.
        awaits: a running sequence that will hold more of its prompt soon, and how much.
    """

    def __init__(
        self,
        request: GenerationRequest,
        now: float,
        checkpoints: Items[int] = (),
        guide: GrammarGuide | None = None,
        spell: Callable[[int], bytes] = lambda _: b"",
        lookup: PromptLookup | None = None,
    ) -> None:
        super().__init__(request, now, guide, spell)
        self.lookup = lookup
        self._guide = guide
        self.slot: int | None = None
        self.num_computed_tokens = 0
        self.checkpoints = set(checkpoints)
        self.awaits: tuple[CachedSequence, int] | None = None

    @property
    def guide(self) -> GrammarGuide | None:
        """Of its next token; None where that is free."""
        return self._guide if self.turn.follows_grammar else None

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def num_pending_tokens(self) -> int:
        """Tokens known but not computed."""
        return self.num_tokens - self.num_computed_tokens

    @property
    def is_prefilling(self) -> bool:
        """Whether part of the prompt is still to be computed."""
        return self.num_computed_tokens < self.num_prompt_tokens

    @property
    def reserved_cells(self) -> int:
        """KV cells it needs at its longest. Reserved at admission: it can never run out."""
        return self.num_prompt_tokens + self.request.max_tokens

    def guess(self, most: int, price: float) -> tuple[int, ...]:
        """What may follow its tokens, within what it may still generate; see `lookup`."""
        left = self.request.max_tokens - self.turn.num_tokens - 1
        if self.lookup is None or self.turn.may_begin_answer:
            return ()
        return self.lookup.guess(self.token_ids, min(most, left), price)

    @property
    def lendable_ids(self) -> tuple[int, ...]:
        """The prompt without its last token, which has to be computed for its logits."""
        return self.request.prompt_token_ids[:-1]

    def start_in(self, slot: int, num_cached_tokens: int, now: float) -> None:
        """WAITING -> RUNNING, in a slot of its own that holds so much of the prompt already."""
        self.start(now)
        self.slot = slot
        self.num_computed_tokens = self.num_cached_tokens = num_cached_tokens
        self.awaits = None


def borders(prompt: Items[int], control_ids: Container[int]) -> tuple[int, ...]:
    """Lengths of a prompt after which another one is likely to differ.

    They are where the text of the first message ends, where that of the last one does, and before
    the last token: there the same prompt, or the next turn's, goes on.
    """
    ends = [
        i
        for i in range(1, len(prompt))
        if prompt[i] in control_ids and prompt[i - 1] not in control_ids
    ]
    found = {*ends[:1], *ends[-1:], len(prompt) - 1} - {0}
    return tuple(sorted(found))
