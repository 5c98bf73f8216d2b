"""What people write as YAML: frozen records, refused with file, line and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from local_worker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

T = TypeVar("T")


class Record(BaseModel):
    """Base of what a file holds: frozen, unknown keys are errors, and no text becomes a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def parse(kind: TypeAdapter[T], text: str, place: str) -> T:
    """What a YAML text says.

    Args:
        kind: what it is to be.
        text: all of it.
        place: of the text, for complaints.

    Raises:
        ConfigError: it is no YAML, or says something that makes no sense; with the line.
    """
    try:
        return kind.validate_python(yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        line = line_of(text, first["loc"])
        where = ".".join(map(str, first["loc"]))
        words = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{place}, line {line}: {f'{where}: ' if where else ''}{words}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none
        raise ConfigError(f"{place} is not valid YAML: {error}") from None


def read(kind: TypeAdapter[T], path: Path, place: str | None = None) -> T:
    """What a YAML file says; raises `ConfigError` where it cannot be read, too."""
    name = place or str(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} cannot be read: {error}") from None
    return parse(kind, text, name)


def line_of(text: str, path: Sequence[int | str]) -> int:
    """The line, from 1, where a place of a YAML text begins, or what holds it if it is missing."""
    node = yaml.compose(text)
    line = 1
    for part in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
        elif isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if k.value == part]
            if not pairs:  # it is missing, or it is the name of a kind of checker
                continue
            key, node = pairs[0]
            line = key.start_mark.line + 1
            continue
        else:
            break
        line = node.start_mark.line + 1
    return line
