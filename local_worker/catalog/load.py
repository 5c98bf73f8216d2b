"""Read and validate `models.yaml`, and find a model in it by name or by file."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import PurePath
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from local_worker.catalog.schema import Artifact, Catalog, ModelEntry
from local_worker.errors import CatalogError

if TYPE_CHECKING:
    from pathlib import Path

# libyaml where it is there: the pure Python loader takes a noticeable part of a command's start.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NEAR_NAMES = 3


def load(path: Path | None = None) -> Catalog:
    """Read a catalog.

    Args:
        path: the file; None reads the one that comes with the program.

    Returns:
        The validated catalog.

    Raises:
        CatalogError: the file cannot be read, is not YAML, or does not match the schema.
    """
    source = path or resources.files("local_worker.catalog") / "models.yaml"
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"cannot read the catalog {source}: {error}") from error
    return parse(text, origin=str(source))


def parse(text: str, *, origin: str = "models.yaml") -> Catalog:
    """Validate the text of a catalog.

    Args:
        text: YAML.
        origin: what an error message calls it.

    Returns:
        The validated catalog.

    Raises:
        CatalogError: not YAML, or not of the schema; names the first offending field.
    """
    try:
        data = yaml.load(text, Loader=_LOADER)  # noqa: S506 (a SafeLoader either way)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise CatalogError(f"{origin} is not valid YAML: {where}") from error
    try:
        return Catalog.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CatalogError(f"{origin}: {field}: {first['msg']}{more}") from error


def find(catalog: Catalog, name: str) -> ModelEntry:
    """The model of that id or alias, whatever the case of the letters.

    Args:
        catalog: where to look.
        name: id or alias.

    Returns:
        The entry.

    Raises:
        CatalogError: there is none; the message lists near names.
    """
    wanted = name.strip().lower()
    by_name = {known.lower(): model for model in catalog.models for known in model.names}
    if wanted in by_name:
        return by_name[wanted]
    near = difflib.get_close_matches(wanted, by_name, n=_NEAR_NAMES, cutoff=0.5)
    near += [known for known in by_name if wanted and wanted in known and known not in near]
    ids = list(dict.fromkeys(by_name[known].id for known in near))[:_NEAR_NAMES]
    hint = f"did you mean {' or '.join(ids)}?" if ids else "`local-worker models list` shows all"
    raise CatalogError(f"unknown model {name!r}: {hint}")


def is_path(name: str) -> bool:
    """Whether what was given as a model is a path to a GGUF file and not a name."""
    return name.lower().endswith(".gguf") or "/" in name or name.startswith((".", "~"))


def find_file(catalog: Catalog, filename: str) -> tuple[ModelEntry, Artifact] | None:
    """The model whose weights have this file, so that a path to a known file keeps its settings.

    Args:
        catalog: where to look.
        filename: a file name or path; only its last part counts.

    Returns:
        The entry and its artifact, or None.
    """
    wanted = PurePath(filename).name.lower()
    for model in catalog.models:
        for artifact in model.weights:
            if any(PurePath(file.name).name.lower() == wanted for file in artifact.files):
                return model, artifact
    return None


def find_quant(model: ModelEntry, quant: str | None) -> Artifact:
    """The weights of that quantisation, or the recommended ones.

    Args:
        model: the entry.
        quant: e.g. `Q8_0`, in any case; None takes the first.

    Returns:
        An artifact of role `weights`.

    Raises:
        CatalogError: the model has none of that quantisation; the message lists what it has.
    """
    for artifact in model.weights:
        if quant is None or artifact.quant.lower() == quant.lower():
            return artifact
    have = ", ".join(artifact.quant for artifact in model.weights) or "no weights at all"
    raise CatalogError(f"{model.id} has no {quant}: {have}")
