"""What llama.cpp's planner takes and gives: wishes, plans, refusals. No decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_worker.catalog.memory import KvType, LoadMode, MemoryNeed
    from local_worker.catalog.schema import Artifact


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for; None leaves it to the planner.

    Attributes:
        context: tokens that one request may use, prompt and output together.
        max_num_seqs: sequences decoded at once.
        quant: one of the model's quantisations.
        kv_type: `f16` or `q8_0`.
        gpu_layers: layers on the GPU; 0 keeps everything in main memory.
        load_mode: `memory` or `mmap`.
        cache_slots: prefixes kept beside the sequences; 0 keeps none.
    """

    context: int | None = None
    max_num_seqs: int | None = None
    quant: str | None = None
    kv_type: str | None = None
    gpu_layers: int | None = None
    load_mode: str | None = None
    cache_slots: int | None = None


@dataclass(frozen=True, slots=True)
class LlamaPlan:
    """How to load a model with llama.cpp.

    Attributes:
        model: catalog id, or the name in the file.
        artifact: what to load; None for a file given by path.
        context: KV cells in total, shared by all sequences.
        max_model_len: tokens that one request may use.
        cache_slots: prefixes kept beside the sequences.
        cheap_cells: cells that those may hold without slowing every step down noticeably.
        n_cpu_moe: layers whose routed experts stay in main memory.
        threads: for decoding, as given by the caller.
        predicted_tokens_per_s: of one sequence, if reading memory were the only cost; None where
            a bandwidth is not known or the weights are read from disk.
        reasons: why it was chosen, a sentence each.
    """

    model: str
    artifact: Artifact | None
    quant: str
    context: int
    max_model_len: int
    kv_type: KvType
    max_num_seqs: int
    cache_slots: int
    cheap_cells: int
    n_gpu_layers: int
    n_cpu_moe: int
    load_mode: LoadMode
    threads: int
    memory: MemoryNeed
    predicted_tokens_per_s: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a wish cannot be had, and the nearest thing that can."""

    model: str
    reasons: tuple[str, ...]
    nearest: str | None = None
    nearest_plan: LlamaPlan | None = None

    def line(self) -> str:
        """All of it as one line for a terminal."""
        hint = f"; {self.nearest}" if self.nearest else ""
        return f"{self.model} cannot be loaded as asked: {'; '.join(self.reasons)}{hint}"
