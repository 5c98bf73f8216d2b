"""What comes back from vLLM, in this project's own terms."""

from __future__ import annotations

from dataclasses import dataclass


class RefusedError(Exception):
    """vLLM does not take these parameters."""


class DeadError(Exception):
    """The engine core has ended."""


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of one sampled token: its own, and the most probable ones, best first."""

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of one request.

    Attributes:
        token_ids: one for each decode step since the last chunk.
        logprobs: as many, or none.
        finish: vLLM's own reason, on the last chunk.
        cached_tokens: of the prompt, that vLLM did not compute.
    """

    token_ids: list[int]
    logprobs: list[Logprobs]
    finish: str | None
    cached_tokens: int = 0
