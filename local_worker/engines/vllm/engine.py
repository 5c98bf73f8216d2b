"""The vLLM engine: `worker` in a supervised process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from local_worker.engines.process.child import Program
from local_worker.engines.process.engine import ProcessEngine

if TYPE_CHECKING:
    from local_worker.engines.vllm.config import VllmConfig

NAME = "vLLM"
WORKER = "local_worker.engines.vllm.worker"

PRIVATE = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
"""Nothing is reported and nothing is fetched: the weights are here before vLLM starts."""


ON_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
}
"""For the CPU build: one process less, no cores reserved, and nothing compiled on the way."""


class VllmEngine(ProcessEngine):
    """Implements `engine.Engine`.

    Args:
        config: what the process loads.
    """

    def __init__(self, config: VllmConfig) -> None:
        super().__init__(Program(NAME, WORKER, config.model_path, config, environment(config)))


def environment(config: VllmConfig) -> dict[str, str]:
    """What is set for the process, on top of the server's own environment."""
    usual = {"VLLM_LOGGING_LEVEL": "WARNING"}
    if not config.on_gpu:
        usual |= ON_CPU
    asked = {name: os.environ.get(name, value) for name, value in usual.items()}
    if not config.on_gpu:
        asked["OMP_NUM_THREADS"] = str(config.threads)
    if config.visible_devices:
        asked["CUDA_VISIBLE_DEVICES"] = ",".join(config.visible_devices)
    if config.ray_address is not None:
        asked |= {"RAY_ADDRESS": config.ray_address, "RAY_USAGE_STATS_ENABLED": "0"}
    return asked | PRIVATE
