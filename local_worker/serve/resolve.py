"""From what the user named to what gets loaded: catalog, files, plan, engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.api.model import ModelCard
from local_worker.catalog.fetch import pull
from local_worker.catalog.gguf_facts import check_parts, read_facts
from local_worker.catalog.guess import guess_thinking
from local_worker.catalog.llama_parts import LlamaPlan, Wish
from local_worker.catalog.load import find, find_file, is_path
from local_worker.catalog.plan import plan
from local_worker.catalog.schema import SamplingDefaults
from local_worker.catalog.vllm_parts import VllmWish
from local_worker.engines.llama_cpp.config import LlamaConfig
from local_worker.errors import ConfigError, DoesNotFitError, EngineStartError, ModelFileError
from local_worker.probe.backend import BackendChoice, choose_backend, threads_for
from local_worker.serve.resolved import (
    DEFAULT_MODEL,
    DEMO_MAX_NUM_SEQS,
    DEMO_THREADS,
    EngineName,
    Machine,
    Overrides,
    Resolved,
    card_of,
)
from local_worker.serve.vllm_models import VllmModels

if TYPE_CHECKING:
    from local_worker.catalog.fetch import Progress
    from local_worker.catalog.gguf_facts import GgufFacts
    from local_worker.catalog.schema import Catalog, ModelEntry
    from local_worker.catalog.store import Store
    from local_worker.probe.hardware import Software

MIN_TOKENS_PER_STEP = 512

LEAST_KEPT, MOST_KEPT, KEPT_IN_FILES = 1 << 28, 1 << 30, 4 << 30
"""Bytes of prompts kept outside of the KV cells: in memory at least and at most, and in files."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """Finds models for one machine.

    Args:
        progress: is told how a download goes on; None forbids downloads.
    """

    machine: Machine
    catalog: Catalog
    store: Store
    progress: Progress | None = None

    def resolve(self, model: str | None, overrides: Overrides) -> Resolved:
        """Plans the model of that name, or at that path; fetches it if it is not here.

        Raises:
            StartupError: unknown, broken, not here, or too large for this machine.
        """
        name = model or DEFAULT_MODEL
        path = Path(name).expanduser() if is_path(name) else None
        if path is not None and not path.exists():
            raise ModelFileError(f"there is no file or folder {path}")
        entry = find(self.catalog, name) if path is None else None
        backend = choose_backend(self.machine.hardware, self.machine.software)
        engine = engine_for(path, entry, overrides.engine, backend, self.machine.software)
        self._check_installed(engine, backend)
        if engine == "vllm":
            found = self._with_vllm(path, entry, overrides)
        elif overrides.vllm != VllmWish():
            raise ConfigError(
                "--tensor-parallel, --pipeline-parallel, --data-parallel, --nodes, --ray-address, "
                "--lora, --speculate and --engine-arg are for vLLM, and llama.cpp loads this model"
            )
        elif path is not None:
            found = self._from_file(path, overrides)
        else:
            assert entry is not None
            found = self._from_catalog(entry, overrides)
        why = why_engine(engine, backend, path, overrides.engine)
        return replace(found, reasons=(*why, *found.reasons))

    def _check_installed(self, engine: EngineName, backend: BackendChoice) -> None:
        software = self.machine.software
        if engine == "llama_cpp" and software.llama_cpp is None:
            raise EngineStartError("; ".join(backend.missing) or "llama.cpp is not installed")
        if engine == "vllm" and software.vllm is None:
            raise EngineStartError(
                "vLLM is not installed: pip install 'local-worker[vllm]' where there is an NVIDIA "
                "GPU; vLLM's CPU build, where there is none, comes with scripts/install vllm"
            )

    def _with_vllm(
        self, path: Path | None, entry: ModelEntry | None, overrides: Overrides
    ) -> Resolved:
        models = VllmModels(self.machine, self.store, self.progress)
        if path is not None:
            return models.from_folder(path, overrides)
        assert entry is not None
        if entry.id == DEFAULT_MODEL:
            return models.embedded(entry, overrides)
        return models.from_entry(entry, overrides)

    def _from_catalog(self, entry: ModelEntry, overrides: Overrides) -> Resolved:
        wish = overrides.wish
        if entry.id == DEFAULT_MODEL:
            wish = replace(wish, max_num_seqs=wish.max_num_seqs or DEMO_MAX_NUM_SEQS)
            few = max(1, min(DEMO_THREADS, int(self.machine.hardware.cpu.usable_cores) - 1))
            overrides = replace(overrides, threads=overrides.threads or few)
        chosen = self._plan(entry, wish, overrides)
        assert chosen.artifact is not None, "a catalog plan names its artifact"
        present = self.store.find(chosen.artifact)
        if present is None:
            if self.progress is None:
                raise ModelFileError(
                    f"the weights of {entry.id} are not on this machine and --offline was given; "
                    f"fetch them first: local-worker models pull {entry.id}"
                )
            present = pull(chosen.artifact, self.store, progress=self.progress)
        check_parts(present.files[0])
        card = card_of(entry, present.files[0])
        return Resolved(
            self._config(present.files[0], chosen, overrides), card, chosen, chosen.reasons
        )

    def _from_file(self, path: Path, overrides: Overrides) -> Resolved:
        facts = read_facts(path)
        chosen = self._plan(facts, overrides.wish, overrides)
        known = find_file(self.catalog, path.name)
        if known is not None:
            card = card_of(known[0], path)
        else:
            card = ModelCard(
                names=(path.stem,),
                thinking=guess_thinking(facts.chat_template, facts.architecture),
                sampling=SamplingDefaults(),
                created=int(path.stat().st_mtime),
            )
        return Resolved(self._config(path, chosen, overrides), card, chosen, chosen.reasons)

    def _config(self, path: Path, chosen: LlamaPlan, overrides: Overrides) -> LlamaConfig:
        return LlamaConfig(
            model_path=str(path),
            kv_capacity=chosen.context,
            max_model_len=chosen.max_model_len,
            max_num_seqs=chosen.max_num_seqs,
            cache_slots=chosen.cache_slots,
            cheap_cells=chosen.cheap_cells,
            max_tokens_per_step=overrides.max_tokens_per_step
            or max(MIN_TOKENS_PER_STEP, chosen.max_num_seqs),
            target_itl=overrides.target_itl,
            kv_layout=overrides.kv_layout,
            kernels=overrides.kernels,
            prompt_lookup=overrides.prompt_lookup,
            max_kept_bytes=self._kept_bytes(overrides),
            cache_dir=None if overrides.cache_dir is None else str(overrides.cache_dir),
            threads=chosen.threads,
            kv_type=chosen.kv_type,
            gpu_layers=chosen.n_gpu_layers,
            cpu_moe_layers=chosen.n_cpu_moe,
            load_mode=chosen.load_mode,
        )

    def _kept_bytes(self, overrides: Overrides) -> int:
        """Of prompts that are kept outside of the KV cells."""
        if overrides.max_kept_bytes is not None:
            return overrides.max_kept_bytes
        if overrides.cache_dir is not None:
            return KEPT_IN_FILES
        return max(LEAST_KEPT, min(MOST_KEPT, self.machine.hardware.memory.usable // 32))

    def _plan(self, model: ModelEntry | GgufFacts, wish: Wish, overrides: Overrides) -> LlamaPlan:
        hardware = self.machine.hardware
        threads = overrides.threads or threads_for(hardware.cpu)
        outcome = plan(
            hardware,
            model,
            wish,
            threads=threads,
            gpu=self.machine.software.llama_cpp_gpu,
            others=self.catalog.models,
        )
        if isinstance(outcome, LlamaPlan):
            return outcome
        raise DoesNotFitError(outcome.line())


def engine_for(
    path: Path | None,
    entry: ModelEntry | None,
    asked: EngineName | None,
    backend: BackendChoice,
    software: Software,
) -> EngineName:
    """The engine that loads it: files are llama.cpp's, folders vLLM's, names the probe's choice.

    Args:
        path: of the model; None for one of the catalog.
        entry: of the catalog; None for a path.
        asked: by the user.
        backend: the probe's choice.
        software: which engines are installed.

    Raises:
        ConfigError: the engine that was asked for does not load such a thing.
    """
    if path is not None:
        suits: EngineName = "vllm" if path.is_dir() else "llama_cpp"
        if asked not in (None, suits):
            thing = "a folder" if path.is_dir() else "a GGUF file"
            raise ConfigError(f"{path} is {thing}, which --engine {suits} loads, not {asked}")
        return suits
    assert entry is not None
    if asked is not None:
        return asked
    if entry.id == DEFAULT_MODEL:  # so small that llama.cpp answers before vLLM is imported
        return "vllm" if software.llama_cpp is None and software.vllm else "llama_cpp"
    return backend.backend if entry.vllm is not None else "llama_cpp"


def why_engine(
    engine: EngineName, backend: BackendChoice, path: Path | None, asked: EngineName | None
) -> tuple[str, ...]:
    """A line or more on the choice of the engine."""
    if engine == backend.backend and asked is None:
        return (*backend.reasons, *backend.missing)
    name = {"vllm": "vLLM", "llama_cpp": "llama.cpp"}[engine]
    if asked is not None:
        return (f"{name}, because it was asked for",)
    if path is not None:
        return (f"{name}, which loads {'folders' if engine == 'vllm' else 'GGUF files'}",)
    return (f"{name}, which suits this model better than the machine's {backend.backend}",)
