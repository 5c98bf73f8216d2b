"""Pull the files of an artifact: resumed, checked, and moved into place only when whole.

Nothing is asked of the network when everything is here. A pull pins a commit: the catalog's, or
the one that the first request resolved. A file gets its name when its size and sha256 are right.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from local_worker.catalog.gguf_facts import check_parts
from local_worker.catalog.hub import Hub, HubFile, is_offline, problem_of
from local_worker.catalog.store import (
    FileRecord,
    Present,
    Store,
    read_manifest,
    sha256_of,
    write_manifest,
)
from local_worker.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from local_worker.catalog.schema import Artifact, ArtifactFile

_MARGIN = 64 << 20  # bytes of disk that stay free
_GB = 1e9


class Progress(Protocol):
    """Is told how a pull goes on. Sizes in bytes."""

    def start(self, name: str, total: int, done: int) -> None:
        """A file, or the check of one, begins with `done` of its `total` bytes behind it."""

    def advance(self, count: int) -> None:
        """`count` bytes more; a negative number when the hub began from the start again."""


class Silent:
    """Progress for nobody."""

    def start(self, name: str, total: int, done: int) -> None:
        """Ignore it."""

    def advance(self, count: int) -> None:
        """Ignore it."""


class _Counted:
    """The part file as `http_get` uses it, telling the progress what is written."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._progress.advance(written)
        return written

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def truncate(self) -> int:
        # The hub ignored the offset and sends the file from its start.
        start = self._file.tell()
        end = self._file.seek(0, os.SEEK_END)
        self._progress.advance(start - end)
        self._file.seek(start)
        return self._file.truncate()


def pull(
    artifact: Artifact, store: Store, *, hub: Hub | None = None, progress: Progress | None = None
) -> Present:
    """Bring the files of an artifact here, unless they are.

    Args:
        artifact: of the catalog.
        store: where to put them.
        hub: where to get them.
        progress: is told how it goes on.

    Returns:
        The paths.

    Raises:
        DownloadError: they could not be fetched, or are not what was expected.
        ModelFileError: a fetched file is not a sound GGUF file.
    """
    if (present := store.find(artifact)) is not None:
        return present
    if artifact.repo is None:
        raise DownloadError(f"{artifact.files[0].name} is missing from the installed program")
    if is_offline(os.environ):
        raise DownloadError(
            f"{artifact.repo} is not here and the network is switched off (HF_HUB_OFFLINE)"
        )
    hub = hub or Hub()
    wanted = _describe(artifact, artifact.repo, hub)
    folder = store.folder(artifact.repo, wanted[0].commit)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _pull_files(artifact, wanted, folder, hub, progress or Silent())
    except OSError as error:
        raise DownloadError(f"{folder}: {problem_of(error)}") from error
    paths = tuple(folder / file.name for file in artifact.files)
    if artifact.format == "gguf":
        check_parts(paths[0])
    size = sum(path.stat().st_size for path in paths)
    return Present(artifact, paths, wanted[0].commit, size)


def _describe(artifact: Artifact, repo: str, hub: Hub) -> list[HubFile]:
    """All files as the hub has them, of one commit."""
    found: list[HubFile] = []
    for file in artifact.files:
        revision = artifact.revision or (found[0].commit if found else None)
        offered = hub.describe(repo, file.name, revision)
        _compare(artifact, file, offered)
        found.append(offered)
    return found


def _compare(artifact: Artifact, file: ArtifactFile, offered: HubFile) -> None:
    """Refuse before a byte is fetched what cannot turn out right."""
    what = f"{offered.repo}/{file.name}"
    if file.sha256 and offered.sha256 and file.sha256 != offered.sha256:
        raise DownloadError(f"{what}: the hub now has other content than the catalog names")
    # Without a pinned commit the file may have been replaced by a better one of another size.
    pinned = artifact.revision is not None or file.sha256 is not None
    if pinned and file.bytes is not None and file.bytes != offered.size:
        raise DownloadError(
            f"{what}: the hub has {offered.size:,} bytes, the catalog names {file.bytes:,}"
        )


def _pull_files(
    artifact: Artifact, wanted: Sequence[HubFile], folder: Path, hub: Hub, progress: Progress
) -> None:
    records = read_manifest(folder)
    missing = [
        (file, offered)
        for file, offered in zip(artifact.files, wanted, strict=True)
        if not _is_here(folder / file.name, records.get(file.name))
    ]
    _check_disk(folder, [offered for _, offered in missing])
    for file, offered in missing:
        checksum = _pull_file(file, offered, folder, hub, progress)
        records[file.name] = FileRecord(offered.size, checksum)
        write_manifest(folder, records)


def _is_here(path: Path, record: FileRecord | None) -> bool:
    return record is not None and path.is_file() and path.stat().st_size == record.bytes


def _pull_file(
    file: ArtifactFile, offered: HubFile, folder: Path, hub: Hub, progress: Progress
) -> str:
    """Fetch one file into its place; returns its checksum."""
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(folder, offered)
    for other in path.parent.glob(f"{path.name}.*.part"):
        if other != part:  # of another content: it can never become this file
            other.unlink()
    with part.open("ab") as sink:
        if sink.tell() > offered.size:
            sink.truncate(0)
        done = sink.seek(0, os.SEEK_END)
        progress.start(file.name, offered.size, done)
        hub.read(offered, cast("BinaryIO", _Counted(sink, progress)), done)
    progress.start(f"checking {file.name}", offered.size, 0)
    checksum = sha256_of(part, progress.advance)
    expected = file.sha256 or offered.sha256
    if expected is not None and checksum != expected:
        part.unlink()
        raise DownloadError(
            f"{offered.repo}/{file.name}: wrong checksum {checksum}, expected {expected}; the file"
            " was removed, pull it again"
        )
    part.replace(path)
    return checksum


def _part(folder: Path, offered: HubFile) -> Path:
    """The unfinished file. Its name carries the content's tag: another content, another file."""
    tag = "".join(char for char in offered.etag if char.isalnum())[:16]
    return folder / f"{offered.name}.{tag}.part"


def _check_disk(folder: Path, missing: Sequence[HubFile]) -> None:
    parts = (_part(folder, offered) for offered in missing)
    have = sum(part.stat().st_size for part in parts if part.exists())
    need = sum(offered.size for offered in missing) - have
    free = shutil.disk_usage(folder).free
    if need and need + _MARGIN > free:
        raise DownloadError(
            f"not enough disk space in {folder}: {need / _GB:.1f} GB are needed,"
            f" {free / _GB:.1f} GB are free"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second pull of the same commit away: both would write the same part file."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DownloadError(f"another pull is writing to {folder}") from error
        yield
