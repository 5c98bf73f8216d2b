"""How many bytes a model takes, and where: pure arithmetic over shapes and hardware facts.

Sizes follow what llama.cpp allocates: keys and values for every cell of the shared context, a
window for sliding-window layers, a fixed state per sequence for recurrent ones, and the buffers of
one micro-batch. They are estimates from above, never a promise to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from local_worker.catalog.gguf_facts import GgufFacts
from local_worker.catalog.schema import F16_BYTES_PER_ELEMENT, Q8_0_BYTES_PER_ELEMENT

if TYPE_CHECKING:
    from local_worker.catalog.schema import Artifact, ModelEntry, Shape
    from local_worker.probe.hardware import Hardware

KvType = Literal["f16", "q8_0"]
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0")
LoadMode = Literal["mmap", "memory"]
LOAD_MODES: tuple[LoadMode, ...] = ("memory", "mmap")

GB = 1e9
MIB = 1 << 20
MICRO_BATCH = 512  # tokens whose activations exist at once
_CELL_PADDING = 256
_HIDDEN_COPIES = 8  # activations of a layer that live at the same time, in units of the hidden size
_FLOAT = 4
_MASK = 2
_PROCESS = 64 * MIB  # the library, its tables and the tokenizer
_GPU_CONTEXT = 512 * MIB  # what a CUDA context and its kernels take
_RESERVE = 384 * MIB  # the API process and the rest of the system
_RESERVE_SHARE = 0.05
CACHE_SLOTS = 16
CHEAP_SHARE = 0.02  # of the weights that a token reads: what cached cells may add to it
LEAST_CHEAP_CELLS = 64
CACHE_STATES = 4
_TYPICAL_TOKENS = 1024  # of a conversation, for the keys and values read per token


@dataclass(frozen=True, slots=True)
class Weights:
    """One quantisation of a model, as the planner sees it.

    Attributes:
        total: bytes of the file or files.
        read_per_token: bytes that one decode step of one sequence reads.
        experts: bytes of the routed experts of all layers.
        tables: bytes of lookup tables that stay in main memory.
        exact: False where `total` is estimated from bits per weight.
        artifact: None for a file given by path.
    """

    quant: str
    total: int
    read_per_token: int
    experts: int
    tables: int
    exact: bool
    artifact: Artifact | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is planned: a catalog entry or a file, with the recommended weights first."""

    name: str
    shape: Shape
    weights: tuple[Weights, ...]


@dataclass(frozen=True, slots=True)
class Devices:
    """The memory to place a model in. `usable` is before, `host` after the reserve."""

    usable: int
    host: int
    gpu: int
    unified: bool
    host_bandwidth: float | None
    gpu_bandwidth: float | None
    reclaims: bool


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes besides the weights, with the number of kept prefixes that are among them."""

    kv: int
    recurrent: int
    compute: int
    cache_slots: int = 0

    @property
    def state(self) -> int:
        """What grows with the sequences."""
        return self.kv + self.recurrent


@dataclass(frozen=True, slots=True)
class Placement:
    """Which layers and experts are where, and what that costs in bytes.

    Attributes:
        host_weights: weights in main memory.
        host_read: weight and KV bytes read from main memory per token.
    """

    n_gpu_layers: int
    n_cpu_moe: int
    host: int
    gpu: int
    host_weights: int
    host_read: int
    gpu_read: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Everything the planner decides, with what it costs."""

    weights: Weights
    kv_type: KvType
    max_model_len: int
    cells: int
    max_num_seqs: int
    sizes: Sizes
    placement: Placement
    load_mode: LoadMode


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """The arithmetic of a plan, in bytes."""

    weights: int
    kv: int
    recurrent: int
    compute: int
    host: int
    host_available: int
    gpu: int
    gpu_available: int

    @property
    def total(self) -> int:
        """Main memory and GPU memory together."""
        return self.host + self.gpu


def subject_of(model: ModelEntry | GgufFacts) -> Subject:
    """The planner's view of a catalog entry or of a file given by path."""
    if isinstance(model, GgufFacts):
        return _subject_of_file(model)
    shape = model.shape
    experts = shape.moe.layers * shape.expert_params_per_layer if shape.moe else 0
    tables = shape.vocab * shape.hidden + shape.per_layer_embedding_params
    weights = []
    for artifact in model.weights:
        if artifact.format != "gguf":
            continue
        estimate = int(model.params.total * (artifact.bits_per_weight or 16.0) / 8)
        total = artifact.total_bytes or estimate
        share = total / model.params.total
        weights.append(
            Weights(
                quant=artifact.quant,
                total=total,
                read_per_token=artifact.bytes_read_per_token or int(model.params.active * share),
                experts=int(experts * share),
                tables=int(tables * share),
                exact=artifact.total_bytes is not None or artifact.packaged,
                artifact=artifact,
            )
        )
    return Subject(model.id, shape, tuple(weights))


def _subject_of_file(facts: GgufFacts) -> Subject:
    weights = Weights(
        quant=facts.quant,
        total=facts.file_bytes,
        read_per_token=max(facts.bytes_read_per_token, 1),
        experts=facts.expert_bytes,
        tables=facts.table_bytes,
        exact=True,
    )
    return Subject(facts.name, facts.shape, (weights,))


def devices_of(hardware: Hardware, *, gpu: bool) -> Devices:
    """The memory a model may take on this machine.

    Args:
        hardware: facts of the machine.
        gpu: whether the installed llama.cpp can use a GPU.

    Returns:
        Main memory after a reserve, and what the GPUs have free.
    """
    usable = hardware.memory.usable
    host = max(0, usable - _RESERVE - int(_RESERVE_SHARE * usable))
    free, unified, bandwidth = _gpu_memory(hardware, host) if gpu else (0, False, None)
    return Devices(
        usable=usable,
        host=host,
        gpu=free,
        unified=unified,
        host_bandwidth=hardware.memory.read_bandwidth,
        gpu_bandwidth=bandwidth or (hardware.memory.read_bandwidth if unified else None),
        reclaims=hardware.in_virtual_machine or hardware.in_container,
    )


def _gpu_memory(hardware: Hardware, host: int) -> tuple[int, bool, float | None]:
    """Free GPU bytes, whether they are the main memory, and the bandwidth."""
    if hardware.apple is not None:
        limit = min(host, hardware.apple.gpu_memory_limit)
        return limit, True, hardware.apple.memory_bandwidth
    gpus = hardware.nvidia.gpus
    if not gpus:
        return 0, False, None
    if any(gpu.unified_memory or gpu.memory_free is None for gpu in gpus):
        return host, True, gpus[0].memory_bandwidth
    # Layers are spread over all of them; the slowest one sets the pace.
    known = [gpu.memory_bandwidth for gpu in gpus if gpu.memory_bandwidth is not None]
    free = sum(max(0, (gpu.memory_free or 0) - _GPU_CONTEXT) for gpu in gpus)
    return free, False, min(known) if len(known) == len(gpus) else None


def cache_slots_to_try(shape: Shape, wished: int | None) -> tuple[int, ...]:
    """How many prefixes to keep beside the sequences, best first.

    Where each of them has a window or a state of its own they are few, and given up before anything
    else is.
    """
    if wished is not None:
        return (wished,)
    if shape.swa_window is None and shape.recurrent is None:
        return (CACHE_SLOTS,)
    return (CACHE_STATES, CACHE_STATES // 2, 0)


def cheap_cells_of(weights: Weights, shape: Shape, kv_type: KvType) -> int:
    """Cells that nobody uses and that a step hardly notices.

    It reads them all the same, masked: 2,000 of 115 KB beside 350 MB of weights made a step of one
    sequence 14 % slower, and of eight 8 % (benchmarks/results/shared-prefix-0.6b.md).
    """
    per_element = Q8_0_BYTES_PER_ELEMENT if kv_type == "q8_0" else F16_BYTES_PER_ELEMENT
    per_cell = max(1.0, shape.kv_elements_per_token * per_element)
    return max(LEAST_CHEAP_CELLS, int(CHEAP_SHARE * weights.read_per_token / per_cell))


def sizes_of(
    shape: Shape, kv_type: KvType, cells: int, max_num_seqs: int, cache_slots: int = 0
) -> Sizes:
    """Bytes besides the weights.

    Args:
        shape: of the model.
        kv_type: how keys and values are stored.
        cells: tokens of context, shared by all sequences.
        max_num_seqs: sequences at once.
        cache_slots: prefixes kept beside them.

    Returns:
        Keys and values, recurrent states, and the buffers of one micro-batch.
    """
    per_element = Q8_0_BYTES_PER_ELEMENT if kv_type == "q8_0" else F16_BYTES_PER_ELEMENT
    elements = shape.kv_elements_per_token * cells
    slots = max_num_seqs + cache_slots
    if shape.swa_window is not None:
        # A window more for each kept prefix, for what several sequences share.
        window = shape.swa_window * (slots + cache_slots) + MICRO_BATCH
        padded = -(-window // _CELL_PADDING) * _CELL_PADDING
        elements += shape.swa_elements_per_token * min(cells, padded)
    state = shape.recurrent.bytes_per_sequence if shape.recurrent else 0
    batch = min(MICRO_BATCH, cells)
    activations = _FLOAT * batch * (shape.vocab + _HIDDEN_COPIES * shape.hidden)
    return Sizes(
        kv=int(elements * per_element),
        recurrent=state * slots,
        # The attention mask has a row of cells for each token. With flash attention, which the
        # library chooses by itself where it can, nothing else grows with the context.
        compute=activations + _MASK * batch * cells,
        cache_slots=cache_slots,
    )


def on_host(weights: Weights, shape: Shape, sizes: Sizes) -> Placement:
    """Everything in main memory."""
    return Placement(
        n_gpu_layers=0,
        n_cpu_moe=0,
        host=weights.total + sizes.state + sizes.compute + _PROCESS,
        gpu=0,
        host_weights=weights.total,
        host_read=weights.read_per_token + _state_read(shape, sizes),
        gpu_read=0,
    )


def on_gpu(weights: Weights, shape: Shape, sizes: Sizes, cpu_moe: int = 0) -> Placement:
    """All layers on the GPU, but the routed experts of `cpu_moe` layers in main memory."""
    moe = shape.moe
    moved = weights.experts * cpu_moe // moe.layers if moe else 0
    moved_read = moved * moe.top_k // moe.experts if moe else 0
    looked_up = shape.per_layer_embedding_params
    tables = shape.vocab * shape.hidden + looked_up
    kept = weights.total - moved - weights.tables * looked_up // tables
    return Placement(
        n_gpu_layers=shape.layers + 1,
        n_cpu_moe=cpu_moe,
        host=moved + weights.tables + _PROCESS,
        gpu=kept + sizes.state + sizes.compute,
        host_weights=moved + weights.tables,
        host_read=moved_read,
        gpu_read=weights.read_per_token - moved_read + _state_read(shape, sizes),
    )


def on_both(weights: Weights, shape: Shape, sizes: Sizes, layers: int) -> Placement:
    """`layers` layers with their keys and values on the GPU, the others in main memory."""
    if layers > shape.layers:
        return on_gpu(weights, shape, sizes)
    share = layers / shape.layers
    moved = int((weights.total - weights.tables) * share)
    read = weights.read_per_token + _state_read(shape, sizes)
    return Placement(
        n_gpu_layers=layers,
        n_cpu_moe=0,
        host=weights.total - moved + int(sizes.state * (1 - share)) + sizes.compute + _PROCESS,
        gpu=moved + int(sizes.state * share) + (sizes.compute if layers else 0),
        host_weights=weights.total - moved,
        host_read=int(read * (1 - share)),
        gpu_read=int(read * share),
    )


def _state_read(shape: Shape, sizes: Sizes) -> int:
    """Bytes of keys, values and states one token of a conversation of typical length reads."""
    cells = _TYPICAL_TOKENS * shape.kv_elements_per_token
    cells += min(_TYPICAL_TOKENS, shape.swa_window or 0) * shape.swa_elements_per_token
    state = shape.recurrent.bytes_per_sequence if shape.recurrent else 0
    return min(int(cells * F16_BYTES_PER_ELEMENT), sizes.kv) + 2 * state


def tokens_per_second(devices: Devices, placement: Placement) -> float | None:
    """Decode speed of one sequence if reading were the only cost; None without a bandwidth."""
    seconds = 0.0
    host = placement.host_read, devices.host_bandwidth
    gpu = placement.gpu_read, devices.gpu_bandwidth
    for read, bandwidth in (host, gpu):
        if read and not bandwidth:
            return None
        if read and bandwidth:
            seconds += read / bandwidth
    return 1 / seconds if seconds else None
