"""The shape of `models.yaml`: frozen models that refuse a key they do not know.

This module knows what a catalog entry says, and nothing about files, memory or networks. All sizes
are bytes. `python -m local_worker.catalog.schema > models.schema.json` writes the JSON schema.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from local_worker.rules import EarlyExit, EffortRule, Level

LEVELS: tuple[Level, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

Positive = Annotated[int, Field(gt=0, lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
CommitHash = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Repo = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
ModelId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


def _stay_inside(name: str) -> str:
    """Refuse a path that could leave the folder it is joined to."""
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} is not a plain relative path")
    return name


RelativePath = Annotated[str, AfterValidator(_stay_inside)]

PROBE_QUESTION = (
    "Do not answer the above yet. How much step-by-step reasoning does a correct answer to it "
    "take? none: it can be given at once. low: a few steps. medium: several steps, or a "
    "calculation. high: long or tricky reasoning. Reply with one of these four words and nothing "
    "else."
)

Q8_0_BYTES_PER_ELEMENT = 34 / 32  # 32 int8 values and one f16 scale
F16_BYTES_PER_ELEMENT = 2.0


class Record(BaseModel):
    """Base of everything in the catalog."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KvLayers(NamedTuple):
    """A run of layers that keep keys and values of the same size."""

    n: Positive
    kv_heads: Positive
    head_dim: Positive

    @property
    def elements_per_token(self) -> int:
        """Numbers kept per token by all these layers, keys and values together."""
        return 2 * self.n * self.kv_heads * self.head_dim


class Moe(Record):
    """A mixture of experts in each of `layers` layers."""

    layers: Positive
    experts: Positive
    top_k: Positive
    expert_ff: Positive
    shared_ff: Count = 0


class Mla(Record):
    """Multi-head latent attention: one compressed vector per token and layer, values included."""

    layers: Positive
    kv_lora_rank: Positive
    rope_head_dim: Positive


class Recurrent(Record):
    """Linear-attention layers with a state of fixed size per sequence (gated delta net)."""

    layers: Positive
    qk_heads: Positive
    v_heads: Positive
    head_dim: Positive
    conv_kernel: Positive

    @property
    def bytes_per_sequence(self) -> int:
        """Bytes of f32 state that each sequence keeps, whatever its length."""
        state = self.v_heads * self.head_dim * self.head_dim
        channels = (2 * self.qk_heads + self.v_heads) * self.head_dim
        return 4 * self.layers * (state + (self.conv_kernel - 1) * channels)


class Shape(Record):
    """The numbers of an architecture that decide memory and speed.

    Attributes:
        layers: transformer blocks, what `n_gpu_layers` counts.
        context: the longest sequence the model was made for, in tokens.
        kv: layers that keep every token.
        swa: layers that keep only the last `swa_window` tokens.
        per_layer_embedding_params: an embedding table per layer (Gemma 4 E2B/E4B): looked up, so
            it costs memory and hardly any bandwidth.
    """

    layers: Positive
    hidden: Positive
    vocab: Positive
    context: Positive
    kv: tuple[KvLayers, ...] = ()
    swa: tuple[KvLayers, ...] = ()
    swa_window: Positive | None = None
    moe: Moe | None = None
    mla: Mla | None = None
    recurrent: Recurrent | None = None
    per_layer_embedding_params: Count = 0

    @model_validator(mode="after")
    def _check_window(self) -> Shape:
        if self.swa and self.swa_window is None:
            raise ValueError("`swa` layers need a `swa_window`")
        return self

    @property
    def kv_elements_per_token(self) -> int:
        """Numbers kept for every token of a sequence (sliding-window layers not counted)."""
        mla = self.mla.layers * (self.mla.kv_lora_rank + self.mla.rope_head_dim) if self.mla else 0
        return mla + sum(layers.elements_per_token for layers in self.kv)

    @property
    def swa_elements_per_token(self) -> int:
        """Numbers kept for every token inside the sliding window."""
        return sum(layers.elements_per_token for layers in self.swa)

    @property
    def expert_params_per_layer(self) -> int:
        """Weights of the routed experts of one layer; 0 where there are none."""
        return 3 * self.moe.experts * self.hidden * self.moe.expert_ff if self.moe else 0


class ArtifactFile(NamedTuple):
    """One file of an artifact; `bytes` and `sha256` are None where not confirmed."""

    name: RelativePath
    bytes: Positive | None = None
    sha256: Sha256 | None = None


class Artifact(Record):
    """Something to download, or packaged with the program.

    Attributes:
        repo: the hub repository; None for a packaged artifact.
        revision: the full commit hash; None where no commit was confirmed, then the first pull
            decides which one and remembers it.
        bits_per_weight: of the whole file; also the base of the size where `bytes` is None.
        bytes_read_per_token: weight bytes one decode step of one sequence reads.
        packaged: the files lie inside the `local_worker` package.
        unconfirmed: what about this artifact was not seen in a source.
    """

    repo: Repo | None = None
    revision: CommitHash | None = None
    files: tuple[ArtifactFile, ...] = Field(min_length=1)
    format: Literal["gguf", "safetensors"] = "gguf"
    quant: str
    bits_per_weight: float | None = Field(default=None, gt=0, le=64)
    bytes_read_per_token: Positive | None = None
    role: Literal["weights", "draft", "mmproj"] = "weights"
    packaged: bool = False
    unconfirmed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_origin(self) -> Artifact:
        if self.packaged == (self.repo is not None):
            raise ValueError("an artifact is either `packaged` or has a `repo`")
        return self

    @property
    def total_bytes(self) -> int | None:
        """Size of all files, None where one of them is not known."""
        sizes = [file.bytes for file in self.files if file.bytes is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


class Params(Record):
    """Parameter counts. `active` are those that one token uses."""

    total: Positive
    active: Positive


class Sampling(Record):
    """Sampling parameters the vendor recommends; None where the vendor says nothing."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)


class SamplingDefaults(Record):
    """Sampling by mode: with and without thinking."""

    thinking: Sampling | None = None
    non_thinking: Sampling | None = None


def _usual_labels() -> dict[Level, str]:
    return {"none": "none", "low": "low", "medium": "medium", "high": "high"}


class Probe(Record):
    """How `auto` asks the model which effort a request needs: its next token is the answer.

    Attributes:
        suffix: text after the messages, in place of the generation prompt, for a model that was
            trained to answer it.
        question: for all others, at the end of the last message; the thought is closed at once.
        labels: level -> the answer; their first tokens must differ.
    """

    suffix: str | None = None
    question: str = Field(default=PROBE_QUESTION, min_length=1)
    labels: dict[Level, str] = Field(default_factory=_usual_labels, min_length=2)


class ThinkingSpec(Record):
    """How a family thinks, and how its thought is opened, closed, switched and bounded.

    Attributes:
        start: text that opens a thought.
        end: text that closes it.
        close: what the server appends when it closes a thought by force.
        primed: the template writes `start` itself when thinking is on.
        switch: which template variable turns it on and off; `always` and `never`: none does.
        default_on: what the template does when nothing is said.
        native_levels: our level -> the value for the template's `reasoning_effort`.
        tool_call_start: opens a tool call, which ends a thought; None where the family has none.
        tool_call_end: closes it; None where only the end of the turn does.
        effort: level -> thinking tokens; `max` is missing because it means what fits.
        answer_allowance: tokens for the answer when the client gives no max_tokens.
        default_effort: the level when neither client nor operator names one; `auto` asks the
            model.
        probe: how.
        rules: efforts that are fixed before it is asked.
        early_exit: when a thought that `auto` has chosen may end early.
    """

    start: str = Field(min_length=1)
    end: str = Field(min_length=1)
    close: str = Field(min_length=1)
    primed: bool
    switch: Literal["enable_thinking", "reasoning_effort", "always", "never"]
    default_on: bool
    native_levels: dict[Level, str] = Field(default_factory=dict)
    tool_call_start: str | None = None
    tool_call_end: str | None = None
    effort: dict[Level, Count]
    answer_allowance: Positive
    default_effort: Level | Literal["auto"]
    probe: Probe = Probe()
    rules: tuple[EffortRule, ...] = ()
    early_exit: EarlyExit = EarlyExit()

    @model_validator(mode="after")
    def _check_tables(self) -> ThinkingSpec:
        if tuple(self.effort) != LEVELS[:-1]:
            raise ValueError(f"`effort` must list {', '.join(LEVELS[:-1])}, in this order")
        budgets = list(self.effort.values())
        if budgets[0] != 0 or budgets != sorted(budgets):
            raise ValueError("`effort` must start with none: 0 and never fall")
        if self.native_levels and tuple(self.native_levels) != LEVELS:
            raise ValueError(f"`native_levels` must be empty or list {', '.join(LEVELS)}")
        return self


class Speculation(Record):
    """How the model's recipe has vLLM guess tokens ahead.

    Attributes:
        tokens: guessed in each step.
        method: vLLM's name for it; None where the draft model says it.
        model: repository of the draft model; None where the weights bring their own head.
    """

    tokens: int = Field(ge=1)
    method: Literal["mtp", "eagle"] | None = None
    model: Repo | None = None


class Vllm(Record):
    """What vLLM needs to serve the model.

    Attributes:
        min_version: the lowest version that a recipe claims to work.
        memory_gb: GPU memory a recipe asks for, by weight format, in decimal gigabytes.
    """

    arch: str
    min_version: str | None = None
    quantised: tuple[str, ...] = ()
    memory_gb: dict[str, float] = Field(default_factory=dict)
    reasoning_parser: str | None = None
    tool_parser: str | None = None
    speculation: Speculation | None = None


class ModelEntry(Record):
    """One model of the catalog.

    Attributes:
        id: the name a client uses.
        hf: the vendor's repository; None for the packaged model.
        artifacts: the first one with role `weights` is the recommended one.
        tool_format: how tool calls are written.
        notes: what an operator should know.
        unconfirmed: what was not seen in a source.
    """

    id: ModelId
    aliases: tuple[str, ...] = ()
    family: str
    hf: Repo | None = None
    license: str
    released: str | None = None
    params: Params
    modalities: tuple[Literal["text", "image", "audio", "video"], ...] = ("text",)
    shape: Shape
    artifacts: tuple[Artifact, ...] = Field(min_length=1)
    vllm: Vllm | None = None
    thinking: ThinkingSpec | None = None
    tool_format: Literal["qwen-xml", "hermes", "gemma", "mistral", "harmony"] | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    notes: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_quants(self) -> ModelEntry:
        quants = [artifact.quant.lower() for artifact in self.weights]
        if len(set(quants)) != len(quants):
            raise ValueError(f"{self.id}: two artifacts have the same `quant`")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Everything this model may be called."""
        return (self.id, *self.aliases)

    @property
    def weights(self) -> tuple[Artifact, ...]:
        """The artifacts that are the model itself, the recommended one first."""
        return tuple(artifact for artifact in self.artifacts if artifact.role == "weights")


class Catalog(Record):
    """All models, with the day the facts were collected."""

    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    models: tuple[ModelEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_names(self) -> Catalog:
        seen: set[str] = set()
        for name in (name.lower() for model in self.models for name in model.names):
            if name in seen:
                raise ValueError(f"the name {name!r} is used twice")
            seen.add(name)
        return self


def json_schema() -> str:
    """The JSON schema of `models.yaml`, as text that ends with a newline."""
    schema = Catalog.model_json_schema()
    schema["title"] = "models.yaml of local-worker"
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
