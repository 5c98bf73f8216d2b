"""Files of the benchmarks: those that come with the program, by name, and people's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from local_worker.errors import ConfigError


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
    folder = resources.files("local_worker.bench") / f"{kind}s"
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir())
        raise ConfigError(f"there is no {kind} {name!r}; there are {', '.join(known)}")
    return f"{name}.yaml", file.read_text()
