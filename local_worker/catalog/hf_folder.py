"""From a model folder in Hugging Face's layout to what the planner needs, checked before loading.

Minutes pass before an engine finds out that a file is missing; its configs and the headers of its
safetensors files say so at once. What a config does not say is assumed so that memory is over- and
not underestimated: every layer keeps every token.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_worker.catalog.schema import KvLayers, Shape
from local_worker.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = struct.Struct("<Q")
_MAX_HEADER = 100 << 20  # the limit of the safetensors library
_DEFAULT_CONTEXT = 4096
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What a model folder says about itself.

    Attributes:
        architecture: the class that its config names.
        model_type: the family that its config names.
        quant: the weights' format: `bf16`, `fp8`, `nvfp4`, `awq`, `gptq`, ...
        weight_bytes: of all safetensors files.
        heads: attention heads; tensor parallelism has to divide them.
        experts: whether it is a mixture of experts.
    """

    path: Path
    name: str
    architecture: str
    model_type: str
    quant: str
    weight_bytes: int
    heads: int
    experts: bool
    shape: Shape
    chat_template: str | None


def read_folder(path: Path) -> FolderFacts:
    """Checks a model folder and reads its facts.

    Raises:
        ModelFileError: a file that an engine needs is missing or broken.
    """
    config = _read_json(path, "config.json", required=True)
    _read_json(path, "tokenizer.json", required=True)
    text = config.get("text_config") or config
    architectures = config.get("architectures") or []
    if not architectures or "model_type" not in config:
        raise ModelFileError(f"{path / 'config.json'} does not name the model's architecture")
    heads = _positive(text, "num_attention_heads", path)
    return FolderFacts(
        path=path,
        name=path.resolve().name,
        architecture=str(architectures[0]),
        model_type=str(config["model_type"]),
        quant=_quant(config, text),
        weight_bytes=_weight_bytes(path),
        heads=heads,
        experts=any(text.get(key) for key in _EXPERTS),
        shape=_shape(text, heads, path),
        chat_template=chat_template_of(path),
    )


def _shape(text: dict[str, Any], heads: int, path: Path) -> Shape:
    layers, hidden = (_positive(text, k, path) for k in ("num_hidden_layers", "hidden_size"))
    kv_heads = text.get("num_key_value_heads") or heads
    head_dim = text.get("head_dim") or hidden // heads
    return Shape(
        layers=layers,
        hidden=hidden,
        vocab=_positive(text, "vocab_size", path),
        context=text.get("max_position_embeddings") or _DEFAULT_CONTEXT,
        kv=(KvLayers(layers, kv_heads, head_dim),),
    )


def _positive(text: dict[str, Any], key: str, path: Path) -> int:
    value = text.get(key)
    if not isinstance(value, int) or value < 1:
        raise ModelFileError(f"{path / 'config.json'}: {key} is {value!r}, not a positive number")
    return value


def _quant(config: dict[str, Any], text: dict[str, Any]) -> str:
    settings = config.get("quantization_config") or text.get("quantization_config")
    if not settings:
        kind = text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or "bfloat16"
        return {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}.get(kind, str(kind))
    method = str(settings.get("quant_method", "unknown"))
    # How keys and values are kept says nothing about the weights.
    weights = {key: value for key, value in settings.items() if not key.startswith("kv_cache")}
    said = json.dumps(weights).lower()
    # compressed-tensors and modelopt are containers: what is in them is said further down.
    return next((name for name in ("nvfp4", "mxfp4") if name in said), _inner(method, said))


def _inner(method: str, said: str) -> str:
    if method in ("compressed-tensors", "modelopt"):
        return "fp8" if "fp8" in said or '"type": "float"' in said else "int"
    return method


def _weight_bytes(path: Path) -> int:
    """Bytes of all weights.

    Raises:
        ModelFileError: there are none, one of an index is missing, or one is not whole.
    """
    index = _read_json(path, "model.safetensors.index.json")
    named = sorted(set((index.get("weight_map") or {}).values()))
    files = [path / name for name in named] or _loose(path)
    if not files:
        raise ModelFileError(f"{path} holds no weights: vLLM needs its .safetensors files")
    return sum(_check_weights(file) for file in files)


def _loose(path: Path) -> list[Path]:
    """Weights without an index; `consolidated` ones are a copy in Mistral's own layout."""
    files = sorted(path.glob("*.safetensors"))
    return [file for file in files if not file.name.startswith("consolidated")]


def _check_weights(file: Path) -> int:
    try:
        size = file.stat().st_size
        with file.open("rb") as source:
            (length,) = _HEADER.unpack(source.read(_HEADER.size))
            if length > min(_MAX_HEADER, size):
                raise ModelFileError(f"{file} is not a safetensors file")
            header = json.loads(source.read(length))
        ends = (t["data_offsets"][1] for name, t in header.items() if name != "__metadata__")
        expected = _HEADER.size + length + max(ends, default=0)
    except FileNotFoundError:
        raise ModelFileError(f"{file} is missing: copy or pull the model again") from None
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{file} is not a safetensors file ({error})") from error
    if size != expected:
        raise ModelFileError(f"{file} has {size:,} bytes and should have {expected:,}: truncated?")
    return size


def chat_template_of(path: Path) -> str | None:
    """From a file of its own, or from the tokenizer's settings; of several, the default one."""
    file = path / "chat_template.jinja"
    if file.exists():
        return file.read_text()
    template = _read_json(path, "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    return template


def _read_json(path: Path, name: str, *, required: bool = False) -> dict[str, Any]:
    file = path / name
    if not file.exists():
        if not required:
            return {}
        raise ModelFileError(f"{path} has no {name}: it is not a whole model folder")
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{file} should hold a JSON object")
    return found
