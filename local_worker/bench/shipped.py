"""Files of the benchmarks: those that come with the program, by name, and people's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.errors import ConfigError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def names_of(kind: str) -> list[str]:
    """Those that come with the program; `kind` as below."""
    return sorted(f.name.removesuffix(".yaml") for f in _folder(kind).iterdir())


def _folder(kind: str) -> Traversable:
    return resources.files("local_worker.bench") / f"{kind}s"


def text_of(kind: str, name: str) -> tuple[str, str]:
    """What to call a file in complaints, and its text.

    Args:
        kind: `scenario` or `suite`; the shipped ones lie in a folder of that name and an s.
        name: of a shipped one, or a path.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        try:
            return name, Path(name).read_text()
        except OSError as error:
            raise ConfigError(f"the {kind} {name} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"the {kind} {name} cannot be read: {error}") from None
    file = _folder(kind) / f"{name}.yaml"
    if not file.is_file():
        raise ConfigError(f"there is no {kind} {name!r}; there are {', '.join(names_of(kind))}")
    return f"{name}.yaml", file.read_text()
