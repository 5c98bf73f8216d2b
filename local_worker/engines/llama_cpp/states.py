"""Where states that were taken out of the KV buffer lie: in main memory, or in a folder.

A file is read by whoever wrote it only: its header names the model, the library's build and the
type of the cells, and what does not agree, or is not what was written, is left alone or removed,
never loaded.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import logging
import os
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from local_worker.engines.llama_cpp.kept import Prefix

if TYPE_CHECKING:
    from pathlib import Path

    from local_worker.engines.llama_cpp.kept import KeptPrefixes

log = logging.getLogger(__name__)

MAGIC = b"local-worker kv 1\n"
SUFFIX = ".kv"
PART = ".part"
"""Of a file that is not written to its end yet."""

MOST_PENDING = 1 << 30
"""Bytes that wait to be written; what comes beyond them is not kept."""

SAMPLES, SAMPLE = 64, 64 << 10
"""Pieces of a model file, and bytes of each, that tell it from others beside its size and time."""


def fresh_memory(size: int) -> memoryview:
    """So many bytes to write to, whatever is in them.

    NumPy asks for large pages: in small ones, copying a state into memory that nobody has touched
    yet takes five times as long.
    """
    return np.empty(size, np.uint8).data


def recast(data: memoryview, stream: int, before: int, after: int) -> memoryview:
    """A sequence's state for a KV buffer with another number of streams.

    llama.cpp writes, after 8 bytes of head, the number of streams and for each of them its cells,
    of which all but the sequence's own have none (`llama_kv_cache::state_write`).

    Args:
        data: what was saved.
        stream: that it was saved from.
        before: streams there were.
        after: streams there are; which one it goes to, loading says.
    """
    head, count = 8, 4
    start, end = head + count + count * stream, len(data) - count * (before - 1 - stream)
    new = fresh_memory(head + count + (end - start) + count * (after - 1))
    new[:head] = data[:head]
    new[head : head + count] = after.to_bytes(count, "little")
    new[head + count : head + count + end - start] = data[start:end]
    new[head + count + end - start :] = bytes(count * (after - 1))
    return new


class States(Protocol):
    """Bytes by key.

    Attributes:
        lasting: whether they outlive the process.
    """

    lasting: bool

    def put(self, key: int, prefix: Prefix, data: memoryview) -> None:
        """Stores what a prefix has left in the KV buffer."""
        ...

    def fetch(self, key: int) -> bool:
        """Whether it can be had; it can then, until `settle`, even if it is dropped meanwhile."""
        ...

    def get(self, key: int) -> memoryview:
        """What was fetched."""
        ...

    def drop(self, key: int) -> None:
        """Forgets it."""
        ...

    def settle(self) -> None:
        """What was fetched and is not needed any more may go."""
        ...

    def close(self) -> None:
        """Waits for what is being written."""
        ...


class MemoryStates:
    """In main memory."""

    lasting = False

    def __init__(self) -> None:
        self._data: dict[int, memoryview] = {}
        self._dropped: list[int] = []

    def put(self, key: int, prefix: Prefix, data: memoryview) -> None:  # noqa: ARG002
        """Stores it."""
        self._data[key] = data

    def fetch(self, key: int) -> bool:
        """Whether it is there."""
        return key in self._data

    def get(self, key: int) -> memoryview:
        """What was put."""
        return self._data[key]

    def drop(self, key: int) -> None:
        """Forgets it with the next `settle`."""
        self._dropped.append(key)

    def settle(self) -> None:
        """Forgets what was dropped."""
        for key in self._dropped:
            self._data.pop(key, None)
        self._dropped.clear()

    def close(self) -> None:
        """Nothing is being written."""


class _Header(msgspec.Struct, frozen=True):
    identity: str
    token_ids: tuple[int, ...]
    salt: str | None
    size: int
    checksum: int


class FileStates:
    """In files of a folder, written by a thread of their own.

    Args:
        folder: made if it is not there.
        identity: of whoever may read them; see `identity_of`.

    Raises:
        OSError: the folder cannot be made or written to.
    """

    lasting = True

    def __init__(self, folder: Path, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise OSError(error.errno, "another server keeps its prefixes there") from error
        for part in folder.glob(f"*{PART}"):
            part.unlink()
        self._folder = folder
        self._identity = identity
        self._paths: dict[int, Path] = {}
        self._pending: dict[int, memoryview] = {}
        self._fetched: dict[int, memoryview] = {}
        self._writer = ThreadPoolExecutor(1, "states")
        self._broken = False

    def restore(self, kept: KeptPrefixes) -> tuple[int, int]:
        """Tells `kept` what lies there. Returns how many files are ours, and how many are not."""
        ours = others = 0
        paths = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
        for path in paths:
            header = _read_header(path)
            if header is None or header.identity != self._identity:
                others += 1
                continue
            if header.salt:  # of a process that is gone, and nobody else's
                path.unlink()
                continue
            prefix = Prefix(header.token_ids, header.salt)
            if path.stem != self._name(prefix):  # a header that was changed
                others += 1
                continue
            key = kept.add(prefix)
            self._paths[key] = path
            for drop in kept.stored(key, header.size):
                self.drop(drop.key)
            ours += 1
        return ours, others

    def _name(self, prefix: Prefix) -> str:
        return hashlib.sha256(repr((self._identity, prefix)).encode()).hexdigest()[:32]

    def put(self, key: int, prefix: Prefix, data: memoryview) -> None:
        """Stores it; it is in the file a little later."""
        if sum(map(len, self._pending.values())) > MOST_PENDING:
            return  # the disk does not keep up: better to compute it again than to fill the memory
        self._paths[key] = path = self._folder / f"{self._name(prefix)}{SUFFIX}"
        self._pending[key] = data
        self._writer.submit(self._write, key, path, prefix, data)

    def _write(self, key: int, path: Path, prefix: Prefix, data: memoryview) -> None:
        part = path.with_suffix(PART)
        header = _Header(self._identity, prefix.token_ids, prefix.salt, len(data), zlib.crc32(data))
        try:
            with open(part, "wb", opener=_private) as file:
                head = msgspec.json.encode(header)
                file.write(MAGIC + len(head).to_bytes(4, "little") + head)
                file.write(data)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            if not self._broken:  # once is enough
                log.warning("a prefix cannot be kept in %s: %s", self._folder, error.strerror)
            self._broken = True
        self._pending.pop(key, None)

    def fetch(self, key: int) -> bool:
        """Reads it, unless it is in memory still."""
        if key in self._fetched:
            return True
        data = self._pending.get(key)
        if data is None:
            data = self._read(key)
        if data is None:
            self.drop(key)
            return False
        self._fetched[key] = data
        return True

    def _read(self, key: int) -> memoryview | None:
        path = self._paths.get(key)
        if path is None:
            return None
        try:
            header = _read_header(path)
            with path.open("rb") as file:
                data = fresh_memory(header.size if header is not None else 0)
                file.seek(-len(data), os.SEEK_END)
                file.readinto(data)
            if header is not None and zlib.crc32(data) == header.checksum:
                os.utime(path)  # the order in which they will be used up
                return data
        except FileNotFoundError:  # it could not be written, or somebody has cleared it away
            return None
        except OSError as error:
            log.warning("the prefix in %s cannot be read: %s", path, error.strerror)
            return None
        log.warning("%s is not what was written there: removed", path)
        path.unlink(missing_ok=True)
        return None

    def get(self, key: int) -> memoryview:
        """What was fetched."""
        return self._fetched[key]

    def drop(self, key: int) -> None:
        """Removes the file, after it has been written."""
        path = self._paths.pop(key, None)
        if path is not None:
            self._writer.submit(path.unlink, missing_ok=True)

    def settle(self) -> None:
        """Keeps the last one: it may be asked for in every step until there is room for it."""
        for key in list(self._fetched)[:-1]:
            del self._fetched[key]

    def close(self) -> None:
        """Waits for the files."""
        self._writer.shutdown()
        self._lock.close()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read_header(path: Path) -> _Header | None:
    """None where the file is not one of ours, or not whole."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return None
            length = int.from_bytes(file.read(4), "little")
            header = msgspec.json.decode(file.read(length), type=_Header)
            whole = len(MAGIC) + 4 + length + header.size
            return header if os.fstat(file.fileno()).st_size == whole else None
    except (OSError, msgspec.MsgspecError):
        return None


def identity_of(model: Path, library: str, kv_type: str) -> str:
    """Tells states apart that have to do with other weights, another build or other cells.

    Args:
        model: the file, or the first of a split one.
        library: its version.
        kv_type: of the cells.

    Raises:
        OSError: the model file cannot be read.
    """
    digest = hashlib.sha256(f"{library} {kv_type}".encode())
    for part in _parts(model):
        status = part.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
        with part.open("rb") as file:
            for number in range(SAMPLES):
                file.seek(number * status.st_size // SAMPLES)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def _parts(model: Path) -> list[Path]:
    first = re.fullmatch(r"(.*)-00001-of-(\d{5})", model.stem)
    if first is None:
        return [model]
    return sorted(model.parent.glob(f"{glob.escape(first[1])}-?????-of-{first[2]}{model.suffix}"))
