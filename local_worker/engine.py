"""The port between the API and whatever computes tokens.

`api` and `engines` know this file and `types`, and not each other. One contract test suite runs
against every implementation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from local_worker.occupancy import Occupancy
    from local_worker.types import (
        EngineInfo,
        EngineStats,
        GenerationRequest,
        Grammar,
        PromptSegment,
        StepOutput,
    )


class Generates(Protocol):
    """The part of an engine that requests need, or somebody in between."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        """Outputs of one sequence; the last one, and no other, has `finish` set.

        Closing the iterator aborts the sequence: its memory is free within one step. A sequence
        whose engine died is run again as long as nothing of it was yielded; after that the
        iterator raises `EngineDiedError`.
        """
        ...


class Engine(Generates, Protocol):
    """One loaded model.

    Every call raises `EngineNotReadyError` while the model is not loaded (before `start`, or while
    it is being restarted) and `EngineDiedError` when the engine ends under it.
    """

    @property
    def info(self) -> EngineInfo:
        """Facts about the loaded model."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a request sent now would be taken."""
        ...

    async def start(self) -> None:
        """Loads the model; raises `EngineStartError` or `ModelFileError`."""
        ...

    async def tokenize(
        self, segments: Sequence[PromptSegment], *, add_special: bool = False
    ) -> tuple[int, ...]:
        """Token ids of the segments, one after the other."""
        ...

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of the ids; raises `InvalidParameterError` on an id outside the vocabulary."""
        ...

    async def check(self, grammar: Grammar) -> None:
        """Raises `InvalidParameterError`, with its field, for a grammar that cannot be followed."""
        ...

    def stats(self) -> EngineStats:
        """Gauges and counters, without waiting for the engine."""
        ...

    @property
    def occupancy(self) -> Occupancy:
        """What it is busy with: requests that it has not said are over."""
        ...

    def take_work(self) -> dict[str, float]:
        """Seconds of computing by request id, since the last call.

        Those of a step are shared out among its sequences by what their tokens cost. All of a
        sequence's are there once it is no longer in `occupancy`.
        """
        ...

    async def failed(self) -> None:
        """Returns when the engine has ended for good, by itself; the server had better end too."""
        ...

    async def aclose(self) -> None:
        """Ends the engine and gives all its memory back."""
        ...
