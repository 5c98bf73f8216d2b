"""What resolving a model takes and gives: the machine, the user's overrides, what to load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from local_worker.api.model import ModelCard
from local_worker.catalog.llama_parts import Wish
from local_worker.catalog.vllm_parts import VllmWish
from local_worker.engines.llama_cpp.config import OWN

if TYPE_CHECKING:
    from pathlib import Path

    from local_worker.catalog.llama_parts import LlamaPlan
    from local_worker.catalog.schema import ModelEntry
    from local_worker.catalog.vllm_parts import VllmPlan
    from local_worker.engines.llama_cpp.config import LlamaConfig
    from local_worker.engines.vllm.config import VllmConfig
    from local_worker.probe.hardware import Hardware, Software

EngineName = Literal["llama_cpp", "vllm"]

DEFAULT_MODEL = "demo"
DEMO_MAX_NUM_SEQS = 32
"""The embedded model is so small that many sequences cost nothing."""

DEMO_THREADS = 2
"""On llama.cpp, where a core is left for the API process: they compute eight sequences 1.4 and 24
of them 1.6 times as fast as one thread, and one sequence no faster. Beside a busy process on two
cores they are slower than one: threads that wait for one another spin."""

DEMO_VLLM_THREADS = 1
"""Its steps are over before a second thread has woken up."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to plan with."""

    hardware: Hardware
    software: Software


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user set by hand; None leaves it to the plan. `target_itl` is in seconds."""

    wish: Wish = field(default_factory=Wish)
    threads: int | None = None
    max_tokens_per_step: int | None = None
    target_itl: float | None = None
    cache_dir: Path | None = None
    max_kept_bytes: int | None = None
    kv_layout: str = "auto"
    kernels: str = OWN
    prompt_lookup: bool = True
    engine: EngineName | None = None
    vllm: VllmWish = field(default_factory=VllmWish)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What to load, how, and why.

    Attributes:
        config: for the engine.
        card: for the API.
        plan: the plan it came from.
        reasons: a line each, for the user.
    """

    config: LlamaConfig | VllmConfig
    card: ModelCard
    plan: LlamaPlan | VllmPlan
    reasons: tuple[str, ...]


def card_of(entry: ModelEntry, path: Path) -> ModelCard:
    """What the catalog knows about a model, for the API. `path` dates it."""
    return ModelCard(
        names=entry.names,
        thinking=entry.thinking,
        sampling=entry.sampling,
        created=int(path.stat().st_mtime),
    )
