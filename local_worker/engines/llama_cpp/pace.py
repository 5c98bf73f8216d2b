"""How many prompt tokens a step may compute beside streams that wait for their next token. Pure.

A step takes as long as its slowest part: with 512 prompt tokens in it, everybody's next token comes
seconds later. What a step costs is learnt from the steps themselves, since it depends on model,
machine, neighbours and context.
"""

from __future__ import annotations

LEARNING = 0.2
"""Weight of the newest step."""

OUTLIER = 4.0
"""A step that takes so many times longer than expected was held up from outside."""

DEFAULT_SLOWDOWN = 2.5
"""Of a decode step, where nobody says what the streams need."""

LEAST_TOKENS = 16
"""However slow the machine: a prompt must get on."""


class Pace:
    """Learns what steps cost.

    Args:
        target: seconds that a step with streams in it should take at most; None leaves it to
            `DEFAULT_SLOWDOWN`, 0 sets no limit.
    """

    def __init__(self, target: float | None = None) -> None:
        self._target = target
        self._decode: float | None = None
        self._per_prompt_token: float | None = None

    def observe(self, decoding: int, prompt_tokens: int, seconds: float) -> None:
        """A step has been computed.

        Args:
            decoding: sequences in it that were past their prompt.
            prompt_tokens: of the others.
            seconds: that it took.
        """
        if not prompt_tokens:
            self._decode = _mix(self._decode, seconds)
        elif prompt_tokens >= LEAST_TOKENS:
            alone = self._decode or 0.0 if decoding else 0.0
            cost = max(seconds - alone, seconds / 4) / prompt_tokens
            self._per_prompt_token = _mix(self._per_prompt_token, cost)

    def prompt_tokens(self, decoding: int, most: int) -> int:
        """How many prompt tokens the next step may compute.

        Args:
            decoding: sequences in it that are past their prompt.
            most: however fast.
        """
        if not decoding or self._target == 0:
            return most
        if self._decode is None or self._per_prompt_token is None:
            return min(most, 4 * LEAST_TOKENS)  # nothing is known yet: find out gently
        target = self._target or DEFAULT_SLOWDOWN * self._decode
        tokens = int((target - self._decode) / self._per_prompt_token)
        return max(min(tokens, most), min(LEAST_TOKENS, most))


def _mix(known: float | None, seen: float) -> float:
    if known is None:
        return seen
    return known + LEARNING * (min(seen, OUTLIER * known) - known)
