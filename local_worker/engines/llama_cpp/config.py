"""What the llama.cpp process is told to load."""

from __future__ import annotations

from dataclasses import dataclass

OWN, LLAMA_CPP = "own", "llama.cpp"


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """How a model is loaded and its context made.

    Attributes:
        model_path: a GGUF file, or the first of a split one.
        kv_capacity: KV cells shared by all sequences.
        max_model_len: prompt and output of one request at the most.
        max_num_seqs: sequences alive at a time.
        kv_layout: `unified` for cells that sequences share, or `auto` for cells of their own where
            prompts turn out to share nothing and kernels are not `own`.
        cache_slots: prefixes kept beside them; 0 keeps none.
        cheap_cells: that those may hold without slowing every step down noticeably.
        max_kept_bytes: of prefixes that were taken out of the KV cells: in main memory, or in
            `cache_dir`. 0 keeps none there.
        cache_dir: a folder that they are kept in when the process ends; None for main memory.
        max_tokens_per_step: rows of one batch at the most.
        target_itl: seconds between a stream's tokens that prompts beside it should not exceed;
            None is a multiple of the measured decode step, 0 sets no limit.
        threads: for decoding and prompt chunks alike.
        prompt_lookup: whether tokens are guessed from what was there before.
        kernels: what computes attention and products: `own`, this project's where they are for
            the processor, or `llama.cpp`.
        kv_type: of the KV cells, `f16` or `q8_0`.
        gpu_layers: layers on the GPU; -1 is all.
        cpu_moe_layers: layers whose experts stay on the CPU all the same.
        load_mode: `memory` reads the weights, `mmap` maps the file.
    """

    model_path: str
    kv_capacity: int
    max_model_len: int
    max_num_seqs: int
    kv_layout: str = "auto"
    cache_slots: int = 16
    cheap_cells: int = 1024
    max_kept_bytes: int = 256 << 20
    cache_dir: str | None = None
    max_tokens_per_step: int = 512
    target_itl: float | None = None
    threads: int = 1
    prompt_lookup: bool = True
    kernels: str = OWN
    kv_type: str = "f16"
    gpu_layers: int = 0
    cpu_moe_layers: int = 0
    load_mode: str = "memory"
