"""What the vLLM process is told to load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from local_worker.catalog.lora import LoraAdapter  # noqa: TC001 - msgspec reads the annotations


@dataclass(frozen=True, slots=True)
class VllmConfig:
    """A model and the arguments of vLLM's engine.

    Attributes:
        model_path: a folder in Hugging Face's layout.
        max_model_len: prompt and output of one request at the most.
        max_num_seqs: sequences that run at a time, in each data-parallel rank.
        data_parallel_size: ranks that share the requests.
        engine_args: every other argument, by the name that `vllm.AsyncEngineArgs` gives it.
        on_gpu: whether it computes on GPUs.
        threads: for computing without a GPU.
        visible_devices: ids of the cards to use; empty leaves all of them in sight.
        adapters: loaded beside the model; the rank they need is among `engine_args`.
        ray_address: of the Ray cluster's head; None where there is none to join.
    """

    model_path: str
    max_model_len: int
    max_num_seqs: int
    data_parallel_size: int = 1
    engine_args: dict[str, Any] = field(default_factory=dict)
    on_gpu: bool = False
    threads: int = 1
    visible_devices: tuple[str, ...] = ()
    adapters: tuple[LoraAdapter, ...] = ()
    ray_address: str | None = None
