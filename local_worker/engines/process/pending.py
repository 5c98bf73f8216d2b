"""A request in the care of an engine in a process of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_worker.types import GenerationRequest, StepOutput


@dataclass(slots=True)
class Pending:
    """What is known of it.

    Attributes:
        outputs: for whoever waits for them.
        submitted: whether the present process has it.
        yielded: whether anything of it was seen: then it cannot be run again.
        attempts: processes that have begun it.
    """

    request: GenerationRequest
    outputs: asyncio.Queue[StepOutput | Exception] = field(default_factory=asyncio.Queue)
    submitted: bool = False
    yielded: bool = False
    attempts: int = 0

    def take(self, output: StepOutput) -> None:
        """One more output."""
        told = output.deltas or output.logprobs or (output.trace and output.trace.token_ids)
        self.yielded = self.yielded or bool(told) or output.finish is not None
        self.outputs.put_nowait(output)
