"""Who an engine has computed for, and how long. Pure: it is told the time.

Several sequences are computed in one step, so its seconds are shared out among them: by their
tokens, and by what a token of the kind costs. Energy and cost of a request follow from its share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from local_worker.engines.process.average import OUTLIER, mixed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

REPORT_SECONDS = 0.05
"""Between two reports, while no sequence ends."""


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


Shares = list[tuple[str, float]]
"""Seconds by request."""


def split(
    parts: Iterable[Part], seconds: float, prompt_cost: float | None, output_cost: float | None
) -> Shares:
    """A step's seconds among its sequences.

    Args:
        parts: of the sequences in it.
        seconds: that it took.
        prompt_cost: seconds of a prompt's token; None where it is not known.
        output_cost: of an output's. While one of them is not known, both are alike.
    """
    known = prompt_cost is not None and output_cost is not None
    prompt, output = (prompt_cost or 0.0, output_cost or 0.0) if known else (1.0, 1.0)
    weights = [
        (part.request_id, part.prompt_tokens * prompt + part.output_tokens * output)
        for part in parts
    ]
    total = sum(weight for _, weight in weights)
    return [(i, seconds * weight / total) for i, weight in weights] if total else []


class OutputCost:
    """Splits seconds where nobody tells how far prompts are: what outputs do not take is theirs.

    What an output's token takes is learnt while no prompt is being computed.
    """

    def __init__(self) -> None:
        self._output: float | None = None

    def split(
        self, outputs: Mapping[str, int], prompts: Mapping[str, int], seconds: float
    ) -> Shares:
        """Seconds among sequences.

        Args:
            outputs: tokens that came out, by request.
            prompts: lengths of the prompts that were being computed meanwhile, likewise.
            seconds: that it took.
        """
        count = sum(outputs.values())
        if not prompts:
            if count:
                self._output = mixed(self._output, seconds / count, outlier=OUTLIER)
            return _in_proportion(outputs, seconds)
        if self._output is None:
            return _in_proportion({**outputs, **prompts}, seconds)
        own = min(self._output * count, seconds)
        return [*_in_proportion(outputs, own), *_in_proportion(prompts, seconds - own)]


def _in_proportion(weights: Mapping[str, int], seconds: float) -> Shares:
    total = sum(weights.values())
    return [(i, seconds * weight / total) for i, weight in weights.items()] if total else []


class Work:
    """Seconds of computing by request, until they are reported."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}
        self._reported = 0.0

    def add(self, shares: Sequence[tuple[str, float]]) -> None:
        """More of them."""
        for request_id, seconds in shares:
            self._shares[request_id] = self._shares.get(request_id, 0.0) + seconds

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
