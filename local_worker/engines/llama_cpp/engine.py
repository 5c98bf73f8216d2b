"""The llama.cpp engine: `worker` in a supervised process."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from local_worker.engines.llama_cpp.config import OWN
from local_worker.engines.llama_cpp.kernels.build import UnavailableError, build
from local_worker.engines.llama_cpp.kernels.hook import KERNELS
from local_worker.engines.process.child import Program
from local_worker.engines.process.engine import ProcessEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_worker.engines.llama_cpp.config import LlamaConfig

log = logging.getLogger(__name__)

NAME = "llama.cpp"
WORKER = "local_worker.engines.llama_cpp.worker"

TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb"
"""1 lets the C library ask for transparent huge pages, which kernels give to those who ask (glibc
2.35 and later; others ignore it). With weights and KV cells in pages of 2 MB instead of 4 kB a
step of the 0.6B shape takes 0.94 to 0.96 of the time (benchmarks/results/decode-0.6b.md)."""


class LlamaCppEngine(ProcessEngine):
    """Implements `engine.Engine`.

    Args:
        config: what the process loads.
    """

    def __init__(self, config: LlamaConfig) -> None:
        self._wants_kernels = config.kernels == OWN and config.gpu_layers == 0
        env = {KERNELS: "", **environment(os.environ)}
        super().__init__(Program(NAME, WORKER, config.model_path, config, env))

    async def launch(self) -> None:
        """See `ProcessEngine.launch`; builds the kernels of this machine, where these are to be."""
        if self._wants_kernels:
            kernels = ""
            try:
                kernels = str(await asyncio.to_thread(build))
            except UnavailableError as error:
                self._wants_kernels = False  # a restart does not try again
                log.warning("kernels stay llama.cpp's: %s", error)
            env = {**self._program.env, KERNELS: kernels}
            self._program = replace(self._program, env=env)
        await super().launch()


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What is set for the process, on top of the server's own environment. Pure.

    Only what its memory is made of: an operator who has decided about that is obeyed.
    """
    tunables = inherited.get(TUNABLES, "")
    if HUGE_PAGES in tunables:
        return {}
    return {TUNABLES: ":".join(filter(None, (tunables, f"{HUGE_PAGES}=1")))}
