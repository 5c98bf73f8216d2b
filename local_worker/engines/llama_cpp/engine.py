"""The llama.cpp engine: `worker` in a supervised process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_worker.engines.process.child import Program
from local_worker.engines.process.engine import ProcessEngine

if TYPE_CHECKING:
    from local_worker.engines.llama_cpp.config import LlamaConfig

NAME = "llama.cpp"
WORKER = "local_worker.engines.llama_cpp.worker"


class LlamaCppEngine(ProcessEngine):
    """Implements `engine.Engine`.

    Args:
        config: what the process loads.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(Program(NAME, WORKER, config.model_path, config))
