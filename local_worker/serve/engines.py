"""From a configuration to the engine that runs it; the last checks before minutes are spent."""

from __future__ import annotations

import importlib.util
import socket
from typing import TYPE_CHECKING

from local_worker.engines.llama_cpp.config import LlamaConfig
from local_worker.engines.llama_cpp.engine import LlamaCppEngine
from local_worker.engines.vllm.engine import VllmEngine
from local_worker.errors import ConfigError, EngineStartError

if TYPE_CHECKING:
    from local_worker.engines.process.engine import ProcessEngine
    from local_worker.engines.vllm.config import VllmConfig

RAY_SECONDS = 3.0


def make_engine(config: LlamaConfig | VllmConfig) -> ProcessEngine:
    """The engine, not started yet.

    Raises:
        ConfigError: the Ray address is none.
        EngineStartError: Ray is not installed, or does not answer there.
    """
    if isinstance(config, LlamaConfig):
        return LlamaCppEngine(config)
    if config.ray_address is not None:
        check_ray(config.ray_address)
    return VllmEngine(config)


def check_ray(address: str) -> None:
    """Looks whether a Ray cluster can be there, in seconds instead of vLLM's minutes.

    Raises:
        ConfigError: the address is none.
        EngineStartError: Ray is not installed, or nothing answers there.
    """
    if importlib.util.find_spec("ray") is None:
        raise EngineStartError("Ray is not installed: pip install ray, on every node")
    if address == "auto":
        return  # Ray finds the cluster of this machine, or says that there is none
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--ray-address {address!r} is neither HOST:PORT nor auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), RAY_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EngineStartError(
            f"no Ray cluster answers at {address} ({error}): start its head there with "
            f"`ray start --head --port {port}`, and `ray start --address {address}` on the others"
        ) from error
