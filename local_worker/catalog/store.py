"""Where weights are kept, what is there, and whether it is whole.

    $LOCAL_WORKER_HOME/models/<owner>/<name>/<commit>/<file>      a finished file
                                                     /pulled.json  sizes and checksums of them
                                                     /<file>.<etag>.part   an unfinished one

A folder of our own and not the hub library's cache: a path names repository and commit, nothing is
a link, `rm` removes exactly what a pull brought, and an unfinished file survives the process, which
the library's own downloads do not. Nothing here touches the network.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_worker.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from local_worker.catalog.schema import Artifact, ArtifactFile, Catalog

MANIFEST = "pulled.json"
_BLOCK = 4 << 20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the manifest says about one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Present:
    """An artifact that is on this machine with all its files, the first one first."""

    artifact: Artifact
    files: tuple[Path, ...]
    revision: str | None
    bytes: int


@dataclass(frozen=True, slots=True)
class FileCheck:
    """The outcome of verifying one file: `problem` is None where it is as it should be."""

    path: Path
    problem: str | None


def default_home(environ: Mapping[str, str]) -> Path:
    """The folder of this program's data.

    Args:
        environ: the environment; `LOCAL_WORKER_HOME` wins over `XDG_DATA_HOME`.

    Returns:
        A folder that may not exist yet.
    """
    if home := environ.get("LOCAL_WORKER_HOME"):
        return Path(home).expanduser()
    data = environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "local-worker"


@dataclass(frozen=True, slots=True)
class Store:
    """The weights below one folder."""

    home: Path

    @property
    def models(self) -> Path:
        """The folder that holds all repositories."""
        return self.home / "models"

    def folder(self, repo: str, revision: str) -> Path:
        """Where the files of one commit lie."""
        return self.models / repo / revision

    def find(self, artifact: Artifact) -> Present | None:
        """The artifact where it is here with all its files at their recorded sizes.

        Args:
            artifact: of the catalog. Without a revision the commit pulled last is taken.

        Returns:
            Paths and size, or None.
        """
        if artifact.packaged:
            return _find_packaged(artifact)
        for folder in self._folders(artifact):
            records = read_manifest(folder)
            names = [file.name for file in artifact.files]
            paths = tuple(folder / name for name in names)
            if all(
                _is_whole(path, records.get(name)) for path, name in zip(paths, names, strict=True)
            ):
                size = sum(records[name].bytes for name in names)
                return Present(artifact, paths, folder.name, size)
        return None

    def _folders(self, artifact: Artifact) -> Iterator[Path]:
        if artifact.repo is None:
            return
        if artifact.revision is not None:
            yield self.folder(artifact.repo, artifact.revision)
            return
        pulled = (self.models / artifact.repo).glob(f"*/{MANIFEST}")
        yield from (path.parent for path in sorted(pulled, key=_age, reverse=True))

    def verify(
        self, present: Present, on_bytes: Callable[[int], None] = lambda _: None
    ) -> tuple[FileCheck, ...]:
        """Read every file again and compare sizes and checksums.

        Args:
            present: what `find` returned.
            on_bytes: called with the number of bytes read, for a progress bar.

        Returns:
            One check per file.
        """
        folder = self.folder(present.artifact.repo or "", present.revision or "")
        records = {} if present.artifact.packaged else read_manifest(folder)
        return tuple(
            _check(path, file, records.get(file.name), on_bytes)
            for path, file in zip(present.files, present.artifact.files, strict=True)
        )

    def remove(self, artifact: Artifact) -> int:
        """Remove the files of an artifact, finished or not, of every commit that was pulled.

        Args:
            artifact: of the catalog. A packaged one is part of the program and is left alone.

        Returns:
            Bytes freed.
        """
        if artifact.repo is None:
            return 0
        root = self.models / artifact.repo
        freed = sum(_remove_files(folder, artifact) for folder in root.glob("*") if folder.is_dir())
        for folder in (root, root.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        return freed


def present_models(catalog: Catalog, store: Store) -> dict[str, tuple[Present, ...]]:
    """What is on this machine: model id -> its artifacts that are here with all their files."""
    found = {
        model.id: tuple(here for artifact in model.artifacts if (here := store.find(artifact)))
        for model in catalog.models
    }
    return {name: artifacts for name, artifacts in found.items() if artifacts}


def _find_packaged(artifact: Artifact) -> Present | None:
    root = Path(str(resources.files("local_worker")))
    paths = tuple(root / file.name for file in artifact.files)
    if not all(path.is_file() for path in paths):
        return None
    return Present(artifact, paths, None, sum(path.stat().st_size for path in paths))


def _is_whole(path: Path, record: FileRecord | None) -> bool:
    return record is not None and path.is_file() and path.stat().st_size == record.bytes


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _remove_files(folder: Path, artifact: Artifact) -> int:
    """Remove what belongs to the artifact in one commit's folder; returns bytes freed."""
    records = read_manifest(folder)
    freed = 0
    for file in artifact.files:
        path = folder / file.name
        for found in (path, *path.parent.glob(f"{path.name}.*.part")):
            if found.is_file():
                freed += found.stat().st_size
                found.unlink()
        records.pop(file.name, None)
    if records:
        write_manifest(folder, records)
    elif not any(found.is_file() for found in folder.rglob("*.gguf")):
        shutil.rmtree(folder)
    return freed


def _check(
    path: Path, file: ArtifactFile, record: FileRecord | None, on_bytes: Callable[[int], None]
) -> FileCheck:
    wanted = file.sha256 or (record.sha256 if record else None)
    size = path.stat().st_size
    if record is not None and size != record.bytes:
        return FileCheck(path, f"has {size:,} bytes instead of {record.bytes:,}")
    if wanted is not None and (found := sha256_of(path, on_bytes)) != wanted:
        return FileCheck(path, f"has the checksum {found} instead of {wanted}")
    return FileCheck(path, None)


def read_manifest(folder: Path) -> dict[str, FileRecord]:
    """What was pulled into a folder; empty where nothing was.

    Args:
        folder: of one commit.

    Returns:
        File name -> size and checksum.

    Raises:
        ModelFileError: the manifest is not of the form this program writes.
    """
    path = folder / MANIFEST
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): FileRecord(int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in data.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path} is damaged; remove it and pull again") from error


def write_manifest(folder: Path, records: Mapping[str, FileRecord]) -> None:
    """Replace a manifest in one step, so that a reader never sees half of it."""
    data = {name: {"bytes": r.bytes, "sha256": r.sha256} for name, r in sorted(records.items())}
    temporary = folder / f"{MANIFEST}.new"
    temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """The checksum of a file, in hexadecimal.

    Args:
        path: the file.
        on_bytes: called with the number of bytes read, for a progress bar.

    Returns:
        64 digits.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()
