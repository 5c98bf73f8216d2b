"""From what the user named to what gets loaded: catalog, files, plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.api.model import ModelCard
from local_worker.catalog.fetch import pull
from local_worker.catalog.gguf_facts import check_parts, read_facts
from local_worker.catalog.guess import guess_thinking
from local_worker.catalog.load import find, find_file, is_path
from local_worker.catalog.plan import LlamaPlan, Wish, plan
from local_worker.catalog.schema import SamplingDefaults
from local_worker.engines.llama_cpp.config import LlamaConfig
from local_worker.errors import DoesNotFitError, EngineStartError, ModelFileError
from local_worker.probe.backend import choose_backend, threads_for

if TYPE_CHECKING:
    from local_worker.catalog.fetch import Progress
    from local_worker.catalog.gguf_facts import GgufFacts
    from local_worker.catalog.schema import Catalog, ModelEntry
    from local_worker.catalog.store import Store
    from local_worker.probe.hardware import Hardware, Software

DEFAULT_MODEL = "demo"
DEMO_MAX_NUM_SEQS = 32
"""The embedded model is so small that many sequences cost nothing."""

DEMO_THREADS = 1
"""A step of it is over before a second thread has woken up, and threads that wait for one another
spin: with a busy neighbour that costs far more than they save."""

MIN_TOKENS_PER_STEP = 512


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to plan with."""

    hardware: Hardware
    software: Software


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user set by hand; None leaves it to the plan."""

    wish: Wish = field(default_factory=Wish)
    threads: int | None = None
    max_tokens_per_step: int | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What to load, how, and why.

    Attributes:
        config: for the engine.
        card: for the API.
        plan: the plan it came from.
        reasons: a line each, for the user.
    """

    config: LlamaConfig
    card: ModelCard
    plan: LlamaPlan
    reasons: tuple[str, ...]


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
        backend = choose_backend(self.machine.hardware, self.machine.software)
        if self.machine.software.llama_cpp is None:
            raise EngineStartError("; ".join(backend.missing) or "llama.cpp is not installed")
        name = model or DEFAULT_MODEL
        if is_path(name):
            found = self._from_file(Path(name).expanduser(), overrides)
        else:
            found = self._from_catalog(name, overrides)
        return replace(found, reasons=(*backend.reasons, *backend.missing, *found.reasons))

    def _from_catalog(self, name: str, overrides: Overrides) -> Resolved:
        entry = find(self.catalog, name)
        wish = overrides.wish
        if entry.id == DEFAULT_MODEL:
            wish = replace(wish, max_num_seqs=wish.max_num_seqs or DEMO_MAX_NUM_SEQS)
            overrides = replace(overrides, threads=overrides.threads or DEMO_THREADS)
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
        card = _card(entry, present.files[0])
        return Resolved(_config(present.files[0], chosen, overrides), card, chosen, chosen.reasons)

    def _from_file(self, path: Path, overrides: Overrides) -> Resolved:
        facts = read_facts(path)
        chosen = self._plan(facts, overrides.wish, overrides)
        known = find_file(self.catalog, path.name)
        if known is not None:
            card = _card(known[0], path)
        else:
            card = ModelCard(
                names=(path.stem,),
                thinking=guess_thinking(facts.chat_template, facts.architecture),
                sampling=SamplingDefaults(),
                created=int(path.stat().st_mtime),
            )
        return Resolved(_config(path, chosen, overrides), card, chosen, chosen.reasons)

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


def _card(entry: ModelEntry, path: Path) -> ModelCard:
    return ModelCard(
        names=entry.names,
        thinking=entry.thinking,
        sampling=entry.sampling,
        created=int(path.stat().st_mtime),
    )


def _config(path: Path, chosen: LlamaPlan, overrides: Overrides) -> LlamaConfig:
    return LlamaConfig(
        model_path=str(path),
        kv_capacity=chosen.context,
        max_model_len=chosen.max_model_len,
        max_num_seqs=chosen.max_num_seqs,
        max_tokens_per_step=overrides.max_tokens_per_step
        or max(MIN_TOKENS_PER_STEP, chosen.max_num_seqs),
        threads=chosen.threads,
        kv_type=chosen.kv_type,
        gpu_layers=chosen.n_gpu_layers,
        cpu_moe_layers=chosen.n_cpu_moe,
        load_mode=chosen.load_mode,
    )
