"""LoRA adapters in PEFT's layout: checked before the minutes of loading a model are spent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from local_worker.errors import ConfigError, ModelFileError


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """An adapter to load beside a model.

    Attributes:
        name: what clients call it.
        path: its folder.
        rank: of its matrices.
    """

    name: str
    path: str
    rank: int


def read_adapters(pairs: list[str]) -> tuple[LoraAdapter, ...]:
    """Adapters from `NAME=FOLDER` pairs.

    Raises:
        ConfigError: not a pair, or a name given twice.
        ModelFileError: a folder that holds no adapter.
    """
    found: dict[str, LoraAdapter] = {}
    for pair in pairs:
        name, separator, folder = pair.partition("=")
        if not separator or not name.strip() or not folder:
            raise ConfigError(f"--lora {pair!r} is not of the form NAME=FOLDER")
        if name in found:
            raise ConfigError(f"--lora {name} is given twice")
        path = Path(folder).expanduser().resolve()
        found[name] = LoraAdapter(name, str(path), _rank(path))
    return tuple(found.values())


def _rank(folder: Path) -> int:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise ModelFileError(
            f"{folder} holds no LoRA adapter: {path.name} cannot be read ({error.strerror})"
        ) from None
    except ValueError as error:
        raise ModelFileError(f"{path} is not valid JSON: {error}") from None
    rank = config.get("r") if isinstance(config, dict) else None
    if not isinstance(rank, int) or rank < 1:
        raise ModelFileError(f"{path}: 'r' is {rank!r}, not a positive number")
    if not (folder / "adapter_model.safetensors").exists():
        raise ModelFileError(f"{folder} lacks adapter_model.safetensors")
    return rank
