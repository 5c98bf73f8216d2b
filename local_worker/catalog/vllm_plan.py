"""Decide how to load a model with vLLM: pure, from facts to arguments or a refusal with reasons.

The weights are chosen by the card: NVFP4 where its tensor cores compute it (Blackwell, and with it
a DGX Spark), FP8 on Hopper and Ada, four-bit integers (AWQ, GPTQ) on what is older. What is left
after the weights and vLLM's own buffers is KV cache, from which the length of a request and the
number of sequences follow. Everything derived can be overridden; nothing is bent in silence.

Sizes are estimates from above. vLLM measures once more when it starts, and its word is the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from local_worker.catalog.explain import gigabytes
from local_worker.catalog.memory import GB
from local_worker.catalog.plan import lengths_to_try
from local_worker.catalog.vllm_parts import VllmPlan, VllmRefusal
from local_worker.probe.backend import usable_gpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from local_worker.catalog.schema import Shape
    from local_worker.catalog.vllm_parts import Parallel, VllmSubject, VllmWeights, VllmWish
    from local_worker.probe.hardware import Gpu, Hardware

BLACKWELL = (10, 0)
ADA = (8, 9)
_BY_CARD: tuple[tuple[tuple[int, int], tuple[str, ...]], ...] = (
    (BLACKWELL, ("nvfp4", "fp8", "int4", "bf16")),
    (ADA, ("fp8", "int4", "bf16")),
    ((0, 0), ("int4", "bf16")),
)
MAX_UTILIZATION = 0.92
_BUFFERS = 2.5 * GB  # activations of a full step, CUDA graphs, the context: per card
_SYSTEM_SHARE = 0.1  # of a Spark's memory, which the OS and the API process live in as well
_SYSTEM_LEAST = 8 * GB
_CPU_PROCESSES = 2.5 * GB  # two Python processes with torch
_CPU_RANK = 0.7 * GB  # one more of them
_CPU_SHARE = 0.9
_CPU_BLOCK = 32  # vLLM's own is 128, and short prompts would never share a block
_GPU_SEQS = 256
_CPU_SEQS = 32
_TYPICAL_TOKENS = 1024  # of a job, to say how many of them the cache should hold
_MIN_MODEL_LEN = 1024
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for
_CPU_FULL_LENGTH_SEQS = 4


@dataclass(frozen=True, slots=True)
class _Room:
    """The memory of one card (or of the machine, without one) and how many there are."""

    cards: int
    budget: float
    capability: tuple[int, int] | None
    utilization: float | None


def plan_vllm(hardware: Hardware, subject: VllmSubject, wish: VllmWish) -> VllmPlan | VllmRefusal:
    """Decide the arguments of vLLM's engine, or why there are none.

    Args:
        hardware: facts of the machine.
        subject: the model, see `subject_of_folder` and `subject_of_entry`.
        wish: what the user asked for.
    """
    gpus = usable_cards(hardware)
    asked = wish.engine_args.get("gpu_memory_utilization", MAX_UTILIZATION)
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not 0 < asked <= 1:
        problem = f"gpu_memory_utilization={asked!r} is no share between 0 and 1"
        return VllmRefusal(subject.name, (problem,))
    room = _gpu_room(hardware, gpus, asked) if gpus else _cpu_room(hardware)
    problems = tuple(_impossible(subject, wish, room))
    if problems:
        return VllmRefusal(subject.name, problems)
    spread = _spread(subject, wish, room)
    best: VllmRefusal | None = None
    for weights in _candidates(subject, wish, room.capability):
        outcome = _fit(subject, weights, wish, room, spread)
        if isinstance(outcome, VllmPlan):
            some = len(gpus) < len(hardware.nvidia.gpus) and not wish.parallel.uses_ray
            return replace(outcome, visible_devices=_ids(gpus) if some else ())
        best = outcome
    return best or VllmRefusal(subject.name, ("it has no weights that vLLM could load",))


def usable_cards(hardware: Hardware) -> tuple[Gpu, ...]:
    """Cards of the first one's kind: a rank on a slower one would hold all others up."""
    gpus = usable_gpus(hardware)
    return tuple(gpu for gpu in gpus if gpu.name == gpus[0].name)


def _ids(gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    return tuple(gpu.uuid or str(gpu.index) for gpu in gpus)


def _gpu_room(hardware: Hardware, gpus: tuple[Gpu, ...], most: float) -> _Room:
    first = gpus[0]
    if first.unified_memory or first.memory_total is None:
        total, free = hardware.memory.total, hardware.memory.usable
        reserve = max(_SYSTEM_LEAST, _SYSTEM_SHARE * total)
    else:
        total = min(gpu.memory_total or 0 for gpu in gpus)
        free, reserve = min(gpu.memory_free or 0 for gpu in gpus), 0.0
    share = max(0.0, min(most, (free - reserve) / total))
    utilization = math.floor(share * 100) / 100
    capability = min(gpu.compute_capability for gpu in gpus)
    return _Room(len(gpus), utilization * total - _BUFFERS, capability, utilization)


def _cpu_room(hardware: Hardware) -> _Room:
    return _Room(1, _CPU_SHARE * hardware.memory.usable - _CPU_PROCESSES, None, None)


def _impossible(subject: VllmSubject, wish: VllmWish, room: _Room) -> Iterator[str]:
    """What is wrong with the wish whatever the memory."""
    context = wish.context
    if context is not None and not 0 < context <= subject.shape.context:
        yield f"a context of {context:,} is not between 1 and the model's {subject.shape.context:,}"
    if wish.max_num_seqs is not None and wish.max_num_seqs < 1:
        yield "at least one sequence is needed"
    if wish.kv_type not in (None, "f16", "fp8"):
        yield f"vLLM's keys and values can be f16 or fp8, not {wish.kv_type}"
    if wish.kv_type == "fp8" and room.capability is None:
        yield "keys and values in fp8 need a GPU"
    for adapter in wish.adapters:
        if adapter.rank > (most := _LORA_RANKS[-1]):
            yield f"LoRA {adapter.name} has rank {adapter.rank}, and vLLM's limit is {most}"
    if wish.quant is not None and not _candidates(subject, wish, room.capability):
        have = ", ".join(weights.quant for weights in subject.weights)
        yield f"there is no {wish.quant} for vLLM, only {have}"
    yield from _impossible_spread(subject, wish, room)


def _impossible_spread(subject: VllmSubject, wish: VllmWish, room: _Room) -> Iterator[str]:
    parallel = wish.parallel
    counts = {
        "--tensor-parallel": parallel.tensor,
        "--pipeline-parallel": parallel.pipeline,
        "--data-parallel": parallel.data,
        "--nodes": parallel.nodes,
    }
    wrong = [name for name, count in counts.items() if count is not None and count < 1]
    if wrong:
        yield f"{wrong[0]} must be at least 1"
        return
    tensor, pipeline = parallel.tensor or 1, parallel.pipeline or 1
    if not _divides(subject, tensor):
        heads = sorted({*subject.kv_heads, *((subject.heads,) if subject.heads else ())})
        text = " and ".join(map(str, heads))
        yield f"--tensor-parallel {tensor} does not divide the model's {text} heads"
    if pipeline > subject.shape.layers:
        layers = subject.shape.layers
        yield f"--pipeline-parallel {pipeline} is more than the model's {layers} layers"
    if room.capability is not None:
        yield from _too_many_ranks(parallel, room)
        return
    if pipeline > 1:
        yield "--pipeline-parallel does not work on vLLM's CPU build: its first request fails"
    if (parallel.data or 1) > 1 and subject.experts:
        yield "--data-parallel does not work on vLLM's CPU build for a mixture of experts"
    if wish.adapters and subject.experts:
        yield "--lora does not work on vLLM's CPU build for a mixture of experts"
    if parallel.uses_ray:
        yield "Ray and several nodes need GPUs: vLLM's CPU build does not support them"


def _too_many_ranks(parallel: Parallel, room: _Room) -> Iterator[str]:
    tensor, pipeline, data = (n or 1 for n in (parallel.tensor, parallel.pipeline, parallel.data))
    if data > 1 and data % parallel.nodes:
        yield f"--data-parallel {data} cannot be spread evenly over {parallel.nodes} nodes"
    have, ranks = room.cards * parallel.nodes, tensor * pipeline * data
    if ranks > have:
        where = f"{have} of one kind" + (f" on {parallel.nodes} nodes" if parallel.uses_ray else "")
        yield f"tensor x pipeline x data parallel needs {ranks} cards and there are {where}"


@dataclass(frozen=True, slots=True)
class _Spread:
    """Ranks of one copy of the model, and copies."""

    tensor: int
    pipeline: int
    data: int

    @property
    def ranks(self) -> int:
        """Cards that hold one copy."""
        return self.tensor * self.pipeline


def _spread(subject: VllmSubject, wish: VllmWish, room: _Room) -> _Spread:
    """What was asked for; without a word, all cards share every layer."""
    parallel = wish.parallel
    pipeline, data = parallel.pipeline or 1, parallel.data or 1
    if parallel.tensor is not None or room.capability is None:
        return _Spread(parallel.tensor or 1, pipeline, data)
    left = max(1, room.cards * parallel.nodes // (pipeline * data))
    tensor = max(n for n in range(1, left + 1) if n & (n - 1) == 0 and _divides(subject, n))
    return _Spread(tensor, pipeline, data)


def _divides(subject: VllmSubject, tensor: int) -> bool:
    """Whether so many ranks can share the heads; heads of keys and values may also be repeated."""
    whole = subject.heads is None or subject.heads % tensor == 0
    return whole and all(n % tensor == 0 or tensor % n == 0 for n in subject.kv_heads)


def _candidates(
    subject: VllmSubject, wish: VllmWish, capability: tuple[int, int] | None
) -> tuple[VllmWeights, ...]:
    """The wished weights, or those for the card and then what is left, best first."""
    if wish.quant is not None:
        wanted = wish.quant.lower()
        return tuple(weights for weights in subject.weights if weights.quant.lower() == wanted)
    if len(subject.weights) == 1:
        return subject.weights  # a folder: there is no choice
    if capability is None:
        return tuple(weights for weights in subject.weights if weights.quant == "bf16")
    order = next(order for least, order in _BY_CARD if capability >= least)
    known = (weights for weights in subject.weights if weights.quant in order)
    return tuple(sorted(known, key=lambda weights: order.index(weights.quant)))


def _fit(
    subject: VllmSubject, weights: VllmWeights, wish: VllmWish, room: _Room, spread: _Spread
) -> VllmPlan | VllmRefusal:
    """The longest request and the most sequences that these weights leave room for."""
    left = _left(weights, room, spread)
    seqs = wish.max_num_seqs or (_GPU_SEQS if room.capability else _CPU_SEQS)
    lengths = lengths_to_try(wish.context, subject.shape, _MIN_MODEL_LEN)
    for length in lengths:
        for kv_type in _kv_types(wish, room):
            cells = int(left / _bytes_per_token(subject, kv_type, room, spread))
            if cells >= length:
                sized = _Sized(length, kv_type, seqs, cells)
                return _finish(subject, weights, wish, room, spread, sized)
    least, here = lengths[-1], _weights_here(weights, room, spread)
    need = here + least * _bytes_per_token(subject, _kv_types(wish, room)[-1], room, spread)
    have = max(0.0, left + here)
    copies = f" in each of {spread.data} copies" if spread.data > 1 else ""
    per = copies if room.capability is None else " on each card"
    what = f"{weights.quant} with a context of {least:,} tokens"
    problem = f"{what} needs {need / GB:.1f} GB{per} and {have / GB:.1f} GB can be used"
    return VllmRefusal(subject.name, (problem,))


@dataclass(frozen=True, slots=True)
class _Sized:
    """What fits."""

    max_model_len: int
    kv_type: str
    max_num_seqs: int
    cells: int


def _kv_types(wish: VllmWish, room: _Room) -> tuple[str, ...]:
    if wish.kv_type is not None:
        return (wish.kv_type,)
    return ("f16", "fp8") if room.capability and room.capability >= ADA else ("f16",)


def _left(weights: VllmWeights, room: _Room, spread: _Spread) -> float:
    """Bytes for keys and values: on one card, or in main memory for one copy of the model."""
    budget = room.budget
    if room.capability is None:
        more = spread.ranks * spread.data - 1
        budget = (room.budget - more * _CPU_RANK) / spread.data
    return budget - _weights_here(weights, room, spread)


def _weights_here(weights: VllmWeights, room: _Room, spread: _Spread) -> float:
    """In the memory that `_left` counts: ranks on the processor divide them and share it."""
    return weights.total if room.capability is None else weights.total / spread.ranks


def _bytes_per_token(subject: VllmSubject, kv_type: str, room: _Room, spread: _Spread) -> float:
    """Of the memory that `_left` counts."""
    whole = _bytes_of_token(subject.shape, kv_type)
    return whole if room.capability is None else whole / _shares(subject, spread)


def _bytes_of_token(shape: Shape, kv_type: str) -> float:
    # Sliding-window layers are counted in full: how vLLM pages them depends on its version.
    elements = shape.kv_elements_per_token + shape.swa_elements_per_token
    return max(1.0, elements * (1.0 if kv_type == "fp8" else 2.0))


def _shares(subject: VllmSubject, spread: _Spread) -> int:
    """Ranks that keep different keys and values: more ranks than heads repeat them."""
    return min((spread.tensor, *subject.kv_heads)) * spread.pipeline


def _finish(
    subject: VllmSubject,
    weights: VllmWeights,
    wish: VllmWish,
    room: _Room,
    spread: _Spread,
    sized: _Sized,
) -> VllmPlan:
    args = _arguments(subject, wish, room, spread, sized) | dict(wish.engine_args)
    return VllmPlan(
        model=subject.name,
        weights=weights,
        max_model_len=sized.max_model_len,
        max_num_seqs=sized.max_num_seqs,
        data_parallel_size=spread.data,
        engine_args=args,
        reasons=tuple(_explain(weights, room, spread, sized, args)),
    )


def _arguments(
    subject: VllmSubject, wish: VllmWish, room: _Room, spread: _Spread, sized: _Sized
) -> dict[str, Any]:
    args: dict[str, Any] = {
        "enable_prefix_caching": True,
        # What was checked is what is loaded, also where Mistral's own layout lies beside it.
        "config_format": "hf",
        "load_format": "safetensors",
    }
    if spread.tensor > 1:
        args["tensor_parallel_size"] = spread.tensor
    if spread.pipeline > 1:
        args["pipeline_parallel_size"] = spread.pipeline
    if spread.ranks > 1 or wish.parallel.uses_ray:
        args["distributed_executor_backend"] = "ray" if wish.parallel.uses_ray else "mp"
    if wish.parallel.uses_ray and spread.data > 1:
        args["data_parallel_backend"] = "ray"
        args["data_parallel_size_local"] = spread.data // wish.parallel.nodes
    if wish.adapters:
        rank = max(adapter.rank for adapter in wish.adapters)
        args |= {
            "enable_lora": True,
            # Without a GPU, vLLM 0.32 computes requests that name no adapter with the last slot
            # (vllm-project/vllm pull request 48421): one that stays empty changes nothing.
            "max_loras": len(wish.adapters) + (room.capability is None),
            "max_lora_rank": next(limit for limit in _LORA_RANKS if rank <= limit),
        }
    if sized.kv_type == "fp8":
        args["kv_cache_dtype"] = "fp8"
    if room.capability is None:
        wanted = _CPU_FULL_LENGTH_SEQS * sized.max_model_len
        wanted = max(wanted, sized.max_num_seqs * min(_TYPICAL_TOKENS, sized.max_model_len))
        cells = min(sized.cells, wanted)
        per_token = _bytes_of_token(subject.shape, sized.kv_type) / _shares(subject, spread)
        # A block more: one that is begun is taken whole.
        args["kv_cache_memory_bytes"] = math.ceil((cells + _CPU_BLOCK) * per_token)
        args |= {"dtype": "bfloat16", "enforce_eager": True, "block_size": _CPU_BLOCK}
    else:
        args["gpu_memory_utilization"] = room.utilization
    return args


def _explain(
    weights: VllmWeights, room: _Room, spread: _Spread, sized: _Sized, args: Mapping[str, Any]
) -> Iterator[str]:
    size = gigabytes(weights.total)
    yield f"{size} of weights in {weights.quant}" + ("" if weights.exact else " (estimated)")
    if room.capability is None:
        yield "vLLM's CPU build computes, without compiling the model first"
    else:
        name = ".".join(map(str, room.capability))
        yield f"{spread.ranks * spread.data} of {room.cards} cards of compute capability {name}"
    yield (
        f"one request may use {sized.max_model_len:,} tokens; up to {sized.max_num_seqs} sequences"
        f" at a time" + (f" in each of {spread.data} copies" if spread.data > 1 else "")
    )
    yield "vLLM gets " + ", ".join(f"{name}={value}" for name, value in sorted(args.items()))
