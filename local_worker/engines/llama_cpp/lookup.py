"""Guesses what comes next from what was there before: in extraction and rewriting, much is copied.

Where the last tokens occurred earlier in the prompt or the output, what followed them there is
computed along with the next token, in the same step. Each position is then sampled from the model's
own distribution as ever, and as long as that gives what was guessed, its logits are there already.
So nothing changes but the number of steps. Prompt lookup decoding (Saxena 2023). Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MATCH = 3
"""Tokens that have to be alike."""

LONGEST = 15
"""Tokens guessed at a time."""

MOST_GUESSES = 16
"""Rows of guesses in a step at the most: the logits of each need room."""

PRIOR = 0.6
"""How often a guess is right, before any was judged."""

LEARNING = 0.15
"""Weight of the newest guess."""

SURE = 0.97
"""However often it was right."""

PAUSE, LONGEST_PAUSE = 16, 512
"""Tokens without a guess once guessing does not pay; twice as many when it still does not."""


class PromptLookup:
    """Guesses for one sequence, more of them where they turn out to be right.

    Attributes:
        rate: how often a guessed token was right, as of lately.
    """

    def __init__(self) -> None:
        self._follows: dict[tuple[int, ...], int] = {}
        self._indexed = MATCH - 1  # tokens whose match with those before them is known
        self.rate = PRIOR
        self._pause = PAUSE
        self._wakes_at = 0

    def guess(self, token_ids: Sequence[int], most: int, price: float) -> tuple[int, ...]:
        """Tokens that may follow.

        Args:
            token_ids: prompt and output so far.
            most: how many at the most.
            price: what computing one more token in a step takes, of what a token takes otherwise.
        """
        most = min(most, LONGEST, self._worth(price))
        if most < 1 or len(token_ids) < self._wakes_at:
            return ()
        self._index(token_ids)
        start = self._follows.get(tuple(token_ids[-MATCH:]))
        if start is None:
            return ()
        return tuple(token_ids[start : start + most])

    def judge(self, guessed: int, right: int, length: int, price: float) -> None:
        """So many of them were guessed, and so many were right.

        Args:
            guessed: tokens.
            right: of those, from the first one on.
            length: prompt and output tokens by now.
            price: as above.
        """
        for _ in range(right):
            self.rate += LEARNING * (1 - self.rate)
        if right < guessed:
            self.rate -= LEARNING * self.rate
        if right:
            self._pause = PAUSE
        if not self._worth(price):
            # It begins again with one that would just pay.
            self._wakes_at = length + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self.rate = min(SURE, price * 1.01)

    def _worth(self, price: float) -> int:
        """The n-th guess is right if all are up to it: it pays while that is likelier than dear."""
        rate = min(self.rate, SURE)
        if rate <= price or price >= 1:
            return 0
        return int(math.log(max(price, 0.01)) / math.log(rate)) if rate > 0 else 0

    def _index(self, token_ids: Sequence[int]) -> None:
        # Not the last token: nothing has followed it yet.
        for end in range(self._indexed + 1, len(token_ids)):
            self._follows[tuple(token_ids[end - MATCH : end])] = end
        self._indexed = max(self._indexed, len(token_ids) - 1)
