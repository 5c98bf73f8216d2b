"""What vLLM's planner takes and gives: wishes, subjects, plans. Frozen values, no decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_worker.catalog.hf_folder import FolderFacts
    from local_worker.catalog.lora import LoraAdapter
    from local_worker.catalog.schema import ModelEntry, Shape

_BYTES_PER_WEIGHT = {"bf16": 2.0, "fp8": 1.06, "nvfp4": 0.62, "int4": 0.62}
"""With scales, and with the embeddings and norms that stay in 16 bits."""

_FOUR_BITS = ("awq", "gptq", "int4", "w4a16")


@dataclass(frozen=True, slots=True)
class Parallel:
    """How the work is spread; None leaves it to the planner.

    Attributes:
        tensor: cards that share every layer.
        pipeline: stages that share the layers.
        data: copies of the model that share the requests.
        nodes: machines.
        ray_address: of the Ray cluster's head, HOST:PORT or `auto`; None without Ray.
    """

    tensor: int | None = None
    pipeline: int | None = None
    data: int | None = None
    nodes: int = 1
    ray_address: str | None = None

    @property
    def uses_ray(self) -> bool:
        """Whether vLLM's Ray executor is asked for."""
        return self.ray_address is not None or self.nodes > 1


@dataclass(frozen=True, slots=True)
class VllmWish:
    """What the user asked for; None leaves it to the planner.

    Attributes:
        context: tokens that one request may use, prompt and output together.
        max_num_seqs: sequences decoded at once.
        quant: the weights' format.
        kv_type: `f16` or `fp8`.
        engine_args: overrides, by vLLM's own names.
        adapters: LoRA adapters to load beside the model.
        speculate: guess tokens ahead as the catalog's recipe has it.
    """

    context: int | None = None
    max_num_seqs: int | None = None
    quant: str | None = None
    kv_type: str | None = None
    parallel: Parallel = Parallel()
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    adapters: tuple[LoraAdapter, ...] = ()
    speculate: bool = False


@dataclass(frozen=True, slots=True)
class VllmWeights:
    """One format of a model's weights; `repo` is None for a folder given by path."""

    quant: str
    total: int
    repo: str | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class VllmSubject:
    """What is planned; `heads` is None where the catalog does not say."""

    name: str
    shape: Shape
    weights: tuple[VllmWeights, ...]
    heads: int | None = None
    experts: bool = False

    @property
    def kv_heads(self) -> tuple[int, ...]:
        """Heads of keys and values, of every kind of layer that has some."""
        return tuple({layers.kv_heads for layers in (*self.shape.kv, *self.shape.swa)})


@dataclass(frozen=True, slots=True)
class VllmPlan:
    """How to load a model with vLLM.

    Attributes:
        engine_args: every other argument of the engine, derived and overridden.
        visible_devices: ids of the cards to use; empty where they are all that there are.
        reasons: why, a sentence each; the last one lists the arguments.
    """

    model: str
    weights: VllmWeights
    max_model_len: int
    max_num_seqs: int
    data_parallel_size: int
    engine_args: dict[str, Any]
    reasons: tuple[str, ...]
    visible_devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VllmRefusal:
    """Why a wish cannot be had."""

    model: str
    reasons: tuple[str, ...]

    def line(self) -> str:
        """All of it as one line for a terminal."""
        return f"{self.model} cannot be loaded with vLLM as asked: {'; '.join(self.reasons)}"


def subject_of_folder(facts: FolderFacts) -> VllmSubject:
    """The planner's view of a model folder."""
    weights = VllmWeights(facts.quant, facts.weight_bytes)
    return VllmSubject(facts.name, facts.shape, (weights,), facts.heads, facts.experts)


def subject_of_entry(entry: ModelEntry) -> VllmSubject:
    """The planner's view of a catalog entry: its vendor's weights and the quantised ones."""
    repos = (*((entry.hf,) if entry.hf else ()), *(entry.vllm.quantised if entry.vllm else ()))
    weights = []
    for repo in repos:
        quant = quant_of_repo(repo)
        total = int(entry.params.total * _BYTES_PER_WEIGHT[quant])
        weights.append(VllmWeights(quant, total, repo, exact=False))
    experts = entry.shape.moe is not None
    return VllmSubject(entry.id, entry.shape, tuple(weights), experts=experts)


def quant_of_repo(repo: str) -> str:
    """The weights' format, which quantised repositories carry in their names."""
    name = repo.lower()
    if any(mark in name for mark in _FOUR_BITS):
        return "int4"
    return next((quant for quant in ("nvfp4", "fp8") if quant in name), "bf16")
