"""From what the user named to what gets loaded: catalog, files, plan, engine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from local_worker.api.model import ModelCard
from local_worker.catalog.fetch import pull
from local_worker.catalog.gguf_facts import check_parts, read_facts
from local_worker.catalog.guess import guess_thinking
from local_worker.catalog.hf_folder import read_folder
from local_worker.catalog.load import find, find_file, is_path
from local_worker.catalog.plan import LlamaPlan, Wish, plan
from local_worker.catalog.schema import SamplingDefaults
from local_worker.catalog.vllm_parts import VllmPlan, VllmWish, subject_of_folder
from local_worker.catalog.vllm_plan import plan_vllm
from local_worker.engines.llama_cpp.config import LlamaConfig
from local_worker.engines.vllm.config import VllmConfig
from local_worker.errors import ConfigError, DoesNotFitError, EngineStartError, ModelFileError
from local_worker.probe.backend import BackendChoice, choose_backend, threads_for

if TYPE_CHECKING:
    from local_worker.catalog.fetch import Progress
    from local_worker.catalog.gguf_facts import GgufFacts
    from local_worker.catalog.hf_folder import FolderFacts
    from local_worker.catalog.schema import Catalog, ModelEntry
    from local_worker.catalog.store import Store
    from local_worker.probe.hardware import Hardware, Software

EngineName = Literal["llama_cpp", "vllm"]

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
        name = model or DEFAULT_MODEL
        path = Path(name).expanduser() if is_path(name) else None
        engine = engine_for(path, overrides.engine)
        self._check_installed(engine, backend)
        if engine == "llama_cpp" and overrides.vllm != VllmWish():
            raise ConfigError(
                "--tensor-parallel, --pipeline-parallel, --data-parallel, --nodes, --ray-address "
                "and --engine-arg are for vLLM, and llama.cpp loads this model"
            )
        if engine == "vllm":
            found = self._with_vllm(path, name, overrides)
            return replace(found, reasons=(_why_vllm(overrides), *found.reasons))
        if path is not None:
            found = self._from_file(path, overrides)
        else:
            found = self._from_catalog(name, overrides)
        return replace(found, reasons=(*backend.reasons, *backend.missing, *found.reasons))

    def _check_installed(self, engine: EngineName, backend: BackendChoice) -> None:
        software = self.machine.software
        if engine == "llama_cpp" and software.llama_cpp is None:
            raise EngineStartError("; ".join(backend.missing) or "llama.cpp is not installed")
        if engine == "vllm" and software.vllm is None:
            raise EngineStartError(
                "vLLM is not installed: pip install 'local-worker[vllm]' where there is an NVIDIA "
                "GPU; vLLM's CPU build, where there is none, comes with scripts/install vllm"
            )

    def _with_vllm(self, path: Path | None, name: str, overrides: Overrides) -> Resolved:
        if path is None:
            entry = find(self.catalog, name)
            if entry.id != DEFAULT_MODEL:
                raise ConfigError(
                    f"{entry.id} cannot be pulled for vLLM yet: give --model the folder of its "
                    "weights in Hugging Face's layout"
                )
            present = self.store.find(entry.weights[0])
            assert present is not None, "the embedded model belongs to the package"
            facts, card = read_folder(present.files[0].parent), _card(entry, present.files[0])
        else:
            facts = read_folder(path)
            card = ModelCard(
                names=(facts.name,),
                thinking=guess_thinking(facts.chat_template, facts.model_type.replace("_", "-")),
                sampling=SamplingDefaults(),
                created=int(path.stat().st_mtime),
            )
        chosen = self._plan_vllm(facts, overrides)
        threads = DEMO_THREADS if path is None else threads_for(self.machine.hardware.cpu)
        config = VllmConfig(
            model_path=str(facts.path),
            max_model_len=chosen.max_model_len,
            max_num_seqs=chosen.max_num_seqs,
            data_parallel_size=chosen.data_parallel_size,
            engine_args=chosen.engine_args,
            on_gpu=bool(self.machine.hardware.nvidia.gpus),
            ray_address=overrides.vllm.parallel.ray_address,
            threads=overrides.threads or threads,
        )
        return Resolved(config, card, chosen, chosen.reasons)

    def _plan_vllm(self, facts: FolderFacts, overrides: Overrides) -> VllmPlan:
        wish = overrides.wish
        for option, value in (("--gpu-layers", wish.gpu_layers), ("--load-mode", wish.load_mode)):
            if value is not None:
                raise ConfigError(f"{option} is llama.cpp's: vLLM has no such choice")
        hardware, given = self.machine.hardware, dict(overrides.vllm.engine_args)
        if overrides.max_tokens_per_step is not None:
            given.setdefault("max_num_batched_tokens", overrides.max_tokens_per_step)
        if (self.machine.software.vllm or "").endswith("+cpu"):
            hardware = replace(hardware, nvidia=replace(hardware.nvidia, gpus=()))
        outcome = plan_vllm(
            hardware,
            subject_of_folder(facts),
            replace(
                overrides.vllm,
                context=wish.context,
                max_num_seqs=wish.max_num_seqs,
                quant=wish.quant,
                kv_type=wish.kv_type,
                engine_args=given,
            ),
        )
        if isinstance(outcome, VllmPlan):
            return outcome
        raise DoesNotFitError(outcome.line())

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


def engine_for(path: Path | None, asked: EngineName | None) -> EngineName:
    """The engine that loads it: files are llama.cpp's, folders vLLM's, names the user's choice.

    Args:
        path: of the model; None for one of the catalog.
        asked: by the user.

    Raises:
        ConfigError: the engine that was asked for does not load such a thing.
    """
    if path is None:
        return asked or "llama_cpp"
    suits: EngineName = "vllm" if path.is_dir() else "llama_cpp"
    if asked not in (None, suits):
        thing = "a folder" if path.is_dir() else "a GGUF file"
        raise ConfigError(f"{path} is {thing}, which --engine {suits} loads, not {asked}")
    return suits


def _why_vllm(overrides: Overrides) -> str:
    asked = "it was asked for" if overrides.engine else "a model folder is what it loads"
    return f"vLLM, because {asked}"


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
