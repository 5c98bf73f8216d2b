"""Models for vLLM: a folder by path, a repository of the catalog, or the embedded model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from local_worker.api.model import ModelCard
from local_worker.catalog.fetch_repo import find_repo, pull_repo
from local_worker.catalog.guess import guess_thinking
from local_worker.catalog.hf_folder import read_folder
from local_worker.catalog.schema import SamplingDefaults
from local_worker.catalog.vllm_parts import (
    VllmPlan,
    VllmSubject,
    VllmWish,
    subject_of_entry,
    subject_of_folder,
)
from local_worker.catalog.vllm_plan import plan_vllm
from local_worker.engines.vllm.config import VllmConfig
from local_worker.errors import ConfigError, DoesNotFitError, EngineStartError, ModelFileError
from local_worker.probe.backend import threads_for, vllm_obstacle
from local_worker.serve.resolved import DEMO_VLLM_THREADS, Resolved, card_of

if TYPE_CHECKING:
    from pathlib import Path

    from local_worker.catalog.fetch import Progress
    from local_worker.catalog.hf_folder import FolderFacts
    from local_worker.catalog.schema import ModelEntry
    from local_worker.catalog.store import Present, Store
    from local_worker.probe.hardware import Hardware
    from local_worker.serve.resolved import Machine, Overrides


SPECULATION_HINT = (
    "its recipe speculates, which --speculate turns on: one stream gains, but guesses miss in JSON "
    "(one report: half the speed), and min_p and logit_bias cannot be served beside it"
)
"""Source of the report: gemmaclaw/gemmaclaw pull request 133, MTP on code, prose and JSON."""

NO_RECIPE = (
    "the catalog knows no speculation for this model; give vLLM's own with "
    "--engine-arg speculative_config={...}"
)


@dataclass(frozen=True, slots=True)
class VllmModels:
    """Finds, fetches and plans them for one machine.

    Args:
        progress: is told how a download goes on; None forbids downloads.
    """

    machine: Machine
    store: Store
    progress: Progress | None = None

    def from_folder(self, path: Path, overrides: Overrides) -> Resolved:
        """The model in a folder in Hugging Face's layout."""
        facts = read_folder(path)
        card = ModelCard(
            names=(facts.name,),
            thinking=guess_thinking(facts.chat_template, facts.model_type.replace("_", "-")),
            sampling=SamplingDefaults(),
            created=int(path.stat().st_mtime),
        )
        return self._resolved(facts, card, overrides)

    def embedded(self, entry: ModelEntry, overrides: Overrides) -> Resolved:
        """The model of the package: its weights lie beside the GGUF file."""
        present = self.store.find(entry.weights[0])
        assert present is not None, "the embedded model belongs to the package"
        overrides = replace(overrides, threads=overrides.threads or DEMO_VLLM_THREADS)
        facts = read_folder(present.files[0].parent)
        return self._resolved(facts, card_of(entry, present.files[0]), overrides, entry)

    def from_entry(self, entry: ModelEntry, overrides: Overrides) -> Resolved:
        """The weights of a catalog model that suit the card, fetched if they are not here."""
        subject = subject_of_entry(entry)
        chosen = self._plan(subject, overrides)
        repo = chosen.weights.repo
        assert repo is not None, "a catalog plan names its repository"
        present = self._repo(
            repo,
            f"the weights of {entry.id} for vLLM ({repo}) are not on this machine and "
            f"--offline was given; fetch them first: "
            f"local-worker models pull {entry.id} --engine vllm --quant {chosen.weights.quant}",
        )
        facts = read_folder(present.files[0].parent)
        # Planned again from the files themselves: the catalog only estimates their size. Which
        # format it is has been chosen, and a folder may call it by another name.
        overrides = replace(overrides, wish=replace(overrides.wish, quant=None))
        hints = []
        if overrides.vllm.speculate:
            overrides = self._speculating(entry, overrides)
        elif entry.vllm is not None and entry.vllm.speculation is not None:
            hints = [SPECULATION_HINT]
        found = self._resolved(facts, card_of(entry, present.files[0]), overrides, entry)
        return replace(found, reasons=(*found.reasons, *hints))

    def _repo(self, repo: str, missing: str) -> Present:
        """A repository, fetched if it is not here; raises `ModelFileError` with `missing`."""
        present = find_repo(self.store, repo)
        if present is None and self.progress is None:
            raise ModelFileError(missing)
        return present or pull_repo(self.store, repo, progress=self.progress)

    def _speculating(self, entry: ModelEntry, overrides: Overrides) -> Overrides:
        """With the catalog's speculation among the engine's arguments; its draft model is here."""
        recipe = entry.vllm.speculation if entry.vllm is not None else None
        if recipe is None:
            raise ConfigError(f"--speculate: {NO_RECIPE}")
        config: dict[str, Any] = {"num_speculative_tokens": recipe.tokens}
        if recipe.method is not None:
            config["method"] = recipe.method
        if recipe.model is not None:
            present = self._repo(
                recipe.model,
                f"the draft model {recipe.model} is not on this machine and --offline was given",
            )
            config["model"] = str(present.files[0].parent)
        given = {"speculative_config": config, **overrides.vllm.engine_args}
        return replace(overrides, vllm=replace(overrides.vllm, engine_args=given))

    def _resolved(
        self,
        facts: FolderFacts,
        card: ModelCard,
        overrides: Overrides,
        entry: ModelEntry | None = None,
    ) -> Resolved:
        clash = {a.name for a in overrides.vllm.adapters} & set(card.names)
        if clash:
            raise ConfigError(f"--lora {min(clash)}: that is the model's own name")
        if overrides.vllm.speculate and "speculative_config" not in overrides.vllm.engine_args:
            raise ConfigError(f"--speculate: {NO_RECIPE}")
        subject = subject_of_folder(facts)
        if entry is not None:  # its shape is finer than what a config says in common terms
            subject = replace(subject, name=entry.id, shape=entry.shape)
        chosen = self._plan(subject, overrides)
        config = VllmConfig(
            model_path=str(facts.path),
            max_model_len=chosen.max_model_len,
            max_num_seqs=chosen.max_num_seqs,
            data_parallel_size=chosen.data_parallel_size,
            engine_args=chosen.engine_args,
            on_gpu=bool(self._hardware().nvidia.gpus),
            adapters=overrides.vllm.adapters,
            ray_address=overrides.vllm.parallel.ray_address,
            threads=overrides.threads or threads_for(self.machine.hardware.cpu),
            visible_devices=chosen.visible_devices,
        )
        return Resolved(config, card, chosen, chosen.reasons)

    def _plan(self, subject: VllmSubject, overrides: Overrides) -> VllmPlan:
        outcome = plan_vllm(self._hardware(), subject, wish_of(overrides))
        if isinstance(outcome, VllmPlan):
            return outcome
        raise DoesNotFitError(outcome.line())

    def _hardware(self) -> Hardware:
        """Without the GPUs where vLLM is the CPU build, which uses none.

        Raises:
            EngineStartError: its GPU build is installed and cannot run on this machine.
        """
        hardware, version = self.machine.hardware, self.machine.software.vllm or ""
        if version.endswith("+cpu"):
            return replace(hardware, nvidia=replace(hardware.nvidia, gpus=()))
        if (obstacle := vllm_obstacle(hardware)) is not None:
            raise EngineStartError(
                f"vLLM {version} cannot run here: {obstacle}; without --engine vllm, llama.cpp "
                "serves the model's GGUF file"
            )
        return hardware


def wish_of(overrides: Overrides) -> VllmWish:
    """What the user set, in the terms of vLLM's planner.

    Raises:
        ConfigError: an option that only llama.cpp has.
    """
    wish = overrides.wish
    for option, value in (
        ("--gpu-layers", wish.gpu_layers),
        ("--load-mode", wish.load_mode),
        ("--prefix-slots", wish.cache_slots),
        ("--target-itl", overrides.target_itl),
        ("--cache-dir", overrides.cache_dir),
    ):
        if value is not None:
            raise ConfigError(f"{option} is llama.cpp's: vLLM has no such choice")
    given = dict(overrides.vllm.engine_args)
    if overrides.max_tokens_per_step is not None:
        given.setdefault("max_num_batched_tokens", overrides.max_tokens_per_step)
    return replace(
        overrides.vllm,
        context=wish.context,
        max_num_seqs=wish.max_num_seqs,
        quant=wish.quant,
        kv_type=wish.kv_type,
        engine_args=given,
    )
