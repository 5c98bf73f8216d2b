"""Who an engine has computed for, and how long. Pure: it is told the time.

Several sequences are computed in one step, so its seconds are shared out among them: by their
tokens, and by what a token of the kind costs. Energy and cost of a request follow from its share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from local_worker.engines.process.average import mixed

if TYPE_CHECKING:
    from collections.abc import Iterable

REPORT_SECONDS = 0.05
"""Between two reports, while no sequence ends."""

OUTLIER = 4.0
"""A step that takes so many times longer than expected was held up from outside."""


class Part(NamedTuple):
    """A sequence's part of a step.

    Attributes:
        request_id: whose.
        prompt_tokens: computed for its prompt.
        output_tokens: computed after that.
    """

    request_id: str
    prompt_tokens: int
    output_tokens: int


class TokenCosts:
    """Learns what a token of a prompt costs beside one of an output, where steps do not tell."""

    def __init__(self) -> None:
        self.prompt: float | None = None
        self.output: float | None = None

    def observe(self, prompt_tokens: int, output_tokens: int, seconds: float) -> None:
        """So many tokens took so long, together."""
        if not prompt_tokens:
            if output_tokens:
                self.output = mixed(self.output, seconds / output_tokens, outlier=OUTLIER)
            return
        outputs = (self.output or 0.0) * output_tokens
        # However dear the outputs beside them: prompts do not come for nothing.
        own = max(seconds - outputs, seconds / 4)
        self.prompt = mixed(self.prompt, own / prompt_tokens, outlier=OUTLIER)


class Work:
    """Seconds of computing by request, until they are reported."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}
        self._reported = 0.0

    def add(
        self,
        parts: Iterable[Part],
        seconds: float,
        prompt_cost: float | None,
        output_cost: float | None,
    ) -> None:
        """A step has been computed.

        Args:
            parts: of the sequences in it.
            seconds: that it took.
            prompt_cost: seconds of a prompt's token; None where it is not known.
            output_cost: of an output's. While one of them is not known, both are alike.
        """
        known = prompt_cost is not None and output_cost is not None
        prompt, output = (prompt_cost, output_cost) if known else (1.0, 1.0)
        assert prompt is not None and output is not None  # noqa: PT018 - for the type checker
        weights = [
            (part.request_id, part.prompt_tokens * prompt + part.output_tokens * output)
            for part in parts
        ]
        total = sum(weight for _, weight in weights)
        if not total:
            return
        shares = self._shares
        for request_id, weight in weights:
            shares[request_id] = shares.get(request_id, 0.0) + seconds * weight / total

    def report(self, now: float, *, urgent: bool) -> tuple[tuple[str, float], ...]:
        """What was added since the last report, as (request id, seconds); nothing if it can wait.

        Args:
            now: the time, in seconds.
            urgent: a sequence has ended: whoever waits for it is to know what it took.
        """
        if not self._shares or (not urgent and now - self._reported < REPORT_SECONDS):
            return ()
        shares, self._shares = self._shares, {}
        self._reported = now
        return tuple(shares.items())
