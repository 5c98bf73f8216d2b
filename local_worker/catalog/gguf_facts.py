"""From checked GGUF headers to what the planner and the server need to know about a model file.

The shape is read from the metadata keys of the file's architecture. What a header does not say is
assumed so that memory is over- and not underestimated. Split files are one model: the facts come
from the first part, and every part is checked.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from local_worker.catalog.ggml import FILE_TYPES
from local_worker.catalog.gguf import Header, SkippedArray, read_header
from local_worker.catalog.schema import KvLayers, Mla, Moe, Recurrent, Shape
from local_worker.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from local_worker.catalog.gguf import Value

_SPLIT_NAME = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
_ARCHITECTURE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_MAX_PARTS = 1_000
_MAX_LAYERS = 10_000
_MAX_NAME = 200
# Architectures whose window pattern the native library knows and the file does not state:
# every how many layers one sees the whole sequence.
_KNOWN_PERIODS = {"gpt-oss": 2}


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a model file says about itself.

    Attributes:
        files: all parts, in order.
        quant: name of the file type, e.g. `Q4_K_M`.
        file_bytes: of all parts together.
        tensor_bytes: of all tensors; 0 for a file that holds only a vocabulary.
        bytes_read_per_token: weight bytes one decode step of one sequence reads.
        expert_bytes: bytes of the routed experts of all layers.
        table_bytes: of the embedding tables, which are looked up and not read as a whole.
    """

    path: Path
    files: tuple[Path, ...]
    architecture: str
    name: str
    chat_template: str | None
    quant: str
    file_bytes: int
    tensor_bytes: int
    bytes_read_per_token: int
    expert_bytes: int
    table_bytes: int
    shape: Shape


def read_facts(path: Path, *, vocab_only: bool = False) -> GgufFacts:
    """Check a GGUF model file with all its parts and read its facts.

    Args:
        path: the file; of a split model the first part.
        vocab_only: accept a file without tensors.

    Returns:
        The facts.

    Raises:
        ModelFileError: a part is missing, truncated, corrupt or not GGUF, or the file is no model.
    """
    headers = check_parts(path)
    first = headers[0]
    if not vocab_only and not any(header.tensors for header in headers):
        raise ModelFileError(f"{path} holds no tensors: it is a vocabulary, not a model")
    architecture = _text(first.metadata, "general.architecture")
    if not _ARCHITECTURE.match(architecture):
        raise ModelFileError(f"{path} does not name its architecture")
    keys = _Keys(first.metadata, architecture, path)
    shape = _shape(keys)
    experts, tables, rest = _tensor_bytes(headers, shape)
    active = experts * shape.moe.top_k // shape.moe.experts if shape.moe else 0
    file_type = first.metadata.get("general.file_type")
    return GgufFacts(
        path=path,
        files=tuple(header.path for header in headers),
        architecture=architecture,
        name=_name(first, path),
        chat_template=_text(first.metadata, "tokenizer.chat_template") or None,
        quant=FILE_TYPES.get(file_type, "unknown") if isinstance(file_type, int) else "unknown",
        file_bytes=sum(header.file_bytes for header in headers),
        tensor_bytes=sum(header.tensor_bytes for header in headers),
        bytes_read_per_token=rest + active,
        expert_bytes=experts,
        table_bytes=tables,
        shape=shape,
    )


def check_parts(path: Path) -> tuple[Header, ...]:
    """Read and check the headers of all parts of a GGUF file.

    Args:
        path: the file; of a split model the first part.

    Returns:
        One header per part, in order.

    Raises:
        ModelFileError: a part is missing or broken, or `path` is not the first part.
    """
    first = read_header(path)
    count, number = first.metadata.get("split.count", 0), first.metadata.get("split.no", 0)
    if not isinstance(count, int) or count <= 1:
        return (first,)
    match = _SPLIT_NAME.match(path.name)
    if number != 0:
        begin = f"{match['stem']}-00001-of-{count:05d}.gguf" if match else "the first part"
        raise ModelFileError(f"{path} is one part of a split model; give {begin}")
    if match is None or int(match["count"]) != count or count > _MAX_PARTS:
        raise ModelFileError(f"{path} is split into {count} parts but its name does not say so")
    names = [f"{match['stem']}-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1)]
    parts = (first, *(read_header(path.with_name(name)) for name in names[1:]))
    for index, part in enumerate(parts):
        if part.metadata.get("split.no") != index or part.metadata.get("split.count") != count:
            raise ModelFileError(f"{part.path} is not part {index + 1} of {count} of {path.name}")
    total = first.metadata.get("split.tensors.count")
    have = sum(len(part.tensors) for part in parts)
    if isinstance(total, int) and total != have:
        raise ModelFileError(f"{path} should have {total} tensors in its parts but has {have}")
    return parts


def _text(metadata: Mapping[str, Value], key: str) -> str:
    value = metadata.get(key, "")
    return value if isinstance(value, str) else ""


def _name(header: Header, path: Path) -> str:
    """The model's name for a terminal; the file's where it has none that can be shown."""
    name = _text(header.metadata, "general.name")
    return name if 0 < len(name) <= _MAX_NAME and name.isprintable() else path.stem


def _tensor_bytes(headers: tuple[Header, ...], shape: Shape) -> tuple[int, int, int]:
    """Bytes of routed experts, of embedding tables, and of what every token reads in full."""
    experts = tables = rest = embedding = 0
    tied = True
    for tensor in (tensor for header in headers for tensor in header.tensors):
        if "_exps." in tensor.name and shape.moe:
            experts += tensor.size
        elif tensor.name == "token_embd.weight":
            embedding = tensor.size
        elif tensor.name.startswith("per_layer_token_embd"):
            tables += tensor.size
        else:
            rest += tensor.size
            tied = tied and tensor.name != "output.weight"
    # A tied embedding is the output matrix too and read in full; a separate one is only looked up.
    return experts, tables + embedding, rest + (embedding if tied else 0)


class _Keys:
    """The metadata of one architecture, by short names and with types checked."""

    def __init__(self, metadata: Mapping[str, Value], architecture: str, path: Path) -> None:
        self.metadata = metadata
        self.architecture = architecture
        self.path = path

    def get(self, key: str) -> Value | None:
        return self.metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: int = 0) -> int:
        """An integer; the largest of a per-layer array."""
        value = self.get(key)
        if isinstance(value, tuple):
            value = max((item for item in value if isinstance(item, int)), default=default)
        return int(value) if isinstance(value, int) else default

    def need(self, key: str) -> int:
        """An integer above 0 that a model must have."""
        value = self.number(key)
        if value <= 0:
            raise ModelFileError(f"{self.path} lacks {self.architecture}.{key}: it is no model")
        return value

    def per_layer(self, key: str, layers: int, default: int) -> list[int]:
        """One integer for each layer, from a number or an array."""
        value = self.get(key)
        if isinstance(value, tuple):
            items = [int(item) for item in value if isinstance(item, int)]
            return (items + [default] * layers)[:layers]
        return [self.number(key, default)] * layers


def _shape(keys: _Keys) -> Shape:
    layers = keys.need("block_count")
    if layers > _MAX_LAYERS:
        raise ModelFileError(f"{keys.path} is corrupt: it claims {layers:,} layers")
    try:
        return _build_shape(keys, layers)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ModelFileError(f"{keys.path} is corrupt: its {field} is impossible") from error


def _build_shape(keys: _Keys, layers: int) -> Shape:
    recurrent = _recurrent(keys, layers)
    kv, swa = _attention(keys, layers, recurrent)
    mla = _mla(keys, layers)
    return Shape(
        layers=layers,
        hidden=keys.need("embedding_length"),
        vocab=_vocab(keys),
        context=keys.need("context_length"),
        kv=() if mla else kv,
        swa=swa,
        swa_window=keys.number("attention.sliding_window") or None,
        moe=_moe(keys, layers),
        mla=mla,
        recurrent=recurrent,
        per_layer_embedding_params=(
            keys.number("embedding_length_per_layer_input") * _vocab(keys) * layers
        ),
    )


def _vocab(keys: _Keys) -> int:
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, SkippedArray) and tokens.length:
        return tokens.length
    return keys.need("vocab_size")


def _attention(
    keys: _Keys, layers: int, recurrent: Recurrent | None
) -> tuple[tuple[KvLayers, ...], tuple[KvLayers, ...]]:
    """The layers that keep keys and values: all tokens, and only a window of them."""
    heads = keys.number("attention.head_count", 1) or 1
    kv_heads = keys.per_layer("attention.head_count_kv", layers, heads)
    windowed = _windowed(keys, layers)
    own = layers - keys.number("attention.shared_kv_layers")
    interval = keys.number("full_attention_interval", 4) or 4
    # Both kinds are counted by their sizes, because a run of equal layers is one entry.
    counts: Counter[tuple[bool, int, int]] = Counter()
    for layer in range(max(own, 0)):
        if kv_heads[layer] <= 0 or (recurrent and (layer + 1) % interval):
            continue
        counts[windowed[layer], kv_heads[layer], _head_dim(keys, heads, windowed[layer])] += 1
    found = [(window, KvLayers(n, heads_, dim)) for (window, heads_, dim), n in counts.items()]
    return (
        tuple(layer for window, layer in found if not window),
        tuple(layer for window, layer in found if window),
    )


def _head_dim(keys: _Keys, heads: int, windowed: bool) -> int:
    """Mean of key and value size: memory counts their sum."""
    default = keys.number("embedding_length") // heads
    suffix = "_swa" if windowed else ""
    key = keys.number("attention.key_length", default)
    value = keys.number("attention.value_length", default)
    if windowed:
        key = keys.number(f"attention.key_length{suffix}", key)
        value = keys.number(f"attention.value_length{suffix}", value)
    return (key + value + 1) // 2


def _windowed(keys: _Keys, layers: int) -> list[bool]:
    """Which layers see only a window. Without a known pattern: none, which overestimates."""
    pattern = keys.get("attention.sliding_window_pattern")
    if not keys.number("attention.sliding_window"):
        return [False] * layers
    if isinstance(pattern, tuple):
        return ([bool(item) for item in pattern] + [False] * layers)[:layers]
    period = pattern if isinstance(pattern, int) else _KNOWN_PERIODS.get(keys.architecture, 1)
    return [period > 1 and (layer + 1) % period != 0 for layer in range(layers)]


def _moe(keys: _Keys, layers: int) -> Moe | None:
    experts = keys.number("expert_count")
    if experts <= 0:
        return None
    return Moe(
        layers=max(layers - keys.number("leading_dense_block_count"), 1),
        experts=experts,
        top_k=min(keys.number("expert_used_count", 1) or 1, experts),
        expert_ff=keys.number("expert_feed_forward_length") or keys.need("feed_forward_length"),
        shared_ff=keys.number("expert_shared_feed_forward_length"),
    )


def _mla(keys: _Keys, layers: int) -> Mla | None:
    rank = keys.number("attention.kv_lora_rank")
    if rank <= 0:
        return None
    return Mla(layers=layers, kv_lora_rank=rank, rope_head_dim=keys.need("rope.dimension_count"))


def _recurrent(keys: _Keys, layers: int) -> Recurrent | None:
    """Linear-attention layers of the Qwen3.5 kind: all but every `full_attention_interval`th."""
    if keys.number("ssm.state_size") <= 0:
        return None
    interval = keys.number("full_attention_interval", 4) or 4
    blocks = layers - keys.number("nextn_predict_layers")
    return Recurrent(
        layers=max(blocks - blocks // interval, 1),
        qk_heads=keys.need("ssm.group_count"),
        v_heads=keys.need("ssm.time_step_rank"),
        head_dim=keys.need("ssm.state_size"),
        conv_kernel=keys.need("ssm.conv_kernel"),
    )
