"""Read the header of a GGUF file and check every claim in it against the file's length.

This runs before the native library sees a file: counts, lengths, offsets and sizes that a header
states are taken for lies until they fit the bytes that are there. It reads forward through a
window of a few megabytes (never a memory map: a file that shrinks under a map kills the process),
keeps scalars and short arrays, and steps over long ones such as a vocabulary of 262,144 strings.
Anything wrong is a `ModelFileError` of one line.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from local_worker.catalog.ggml import ARRAY, BOOL, SCALARS, STRING, TENSOR_TYPES
from local_worker.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_WINDOW = 1 << 20
_MAX_KEY = 65_535
_MAX_TEXT = 8 << 20  # the longest string value kept: chat templates are well below a megabyte
_MAX_KEPT_TEXT = 64 << 20  # of all strings together
_MAX_VALUES = 1 << 16
_MAX_TENSORS = 1 << 18
_MAX_STRINGS = 1 << 24  # of one array; the longest known has half a million merges
_MAX_TENSOR_NAME = 64  # the native library's own limit
_MAX_DIMS = 4
_MAX_INT = 2**63 - 1
_KEEP_ITEMS = 4_096  # per-layer arrays are kept, vocabularies are not
_MAX_PROBLEM = 240
_MIN_KEY_VALUE = 8 + 4 + 1
_MIN_TENSOR = 8 + 4 + 8 + 4 + 8
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array that was stepped over: only its length is known."""

    length: int


Value = Scalar | tuple[Scalar, ...] | SkippedArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `size` bytes at `offset` from the start of the tensor data."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: every tensor lies inside the file of `file_bytes` bytes."""

    path: Path
    version: int
    file_bytes: int
    data_start: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors)


class _Reader:
    """Reads forward; refuses to pass the end of the file."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self._file = file
        self._path = path
        self._size = size
        self._buffer = b""
        self._at = 0
        self._start = 0  # where in the file the buffer begins
        self._kept_text = 0

    @property
    def position(self) -> int:
        """Bytes from the start of the file."""
        return self._start + self._at

    @property
    def remaining(self) -> int:
        """Bytes from here to the end of the file."""
        return self._size - self.position

    def fail(self, problem: str) -> ModelFileError:
        # Names come from the file: what is not printable could reprogram a terminal, and a key may
        # be 64 KB long.
        if len(problem) > _MAX_PROBLEM:
            problem = f"{problem[: _MAX_PROBLEM // 2]}...{problem[-_MAX_PROBLEM // 2 :]}"
        line = f"{self._path} {problem}"
        return ModelFileError("".join(char if char.isprintable() else "?" for char in line))

    def truncated(self, what: str, end: int) -> ModelFileError:
        return self.fail(
            f"is truncated: {what} ends at byte {end:,} but the file has {self._size:,}"
        )

    def _fill(self, count: int, what: str) -> None:
        """Make at least `count` bytes available in the buffer."""
        if count > self.remaining:
            raise self.truncated(what, self.position + count)
        have = len(self._buffer) - self._at
        if have < count:
            more = self._file.read(max(count - have, _WINDOW))
            self._start += self._at
            self._buffer = self._buffer[self._at :] + more
            self._at = 0
            if len(self._buffer) < count:
                raise self.fail("changed while it was read")

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        self._fill(count, what)
        self._at += count
        return self._buffer[self._at - count : self._at]

    def skip(self, count: int, what: str) -> None:
        """Step over `count` bytes."""
        if count > self.remaining:
            raise self.truncated(what, self.position + count)
        if self._at + count <= len(self._buffer):
            self._at += count
            return
        self._start = self.position + count
        self._file.seek(self._start)
        self._buffer = b""
        self._at = 0

    def number(self, fmt: str, what: str) -> int | float:
        """One number of a struct format."""
        value: int | float = struct.unpack(fmt, self.take(struct.calcsize(fmt), what))[0]
        return value

    def count(self, what: str) -> int:
        """A u64 that counts things or bytes."""
        return int.from_bytes(self.take(8, what), "little")

    def kind(self, what: str) -> int:
        """A u32 that names a type."""
        return int.from_bytes(self.take(4, what), "little")

    def text(self, what: str, limit: int) -> str:
        """A string of at most `limit` bytes."""
        length = self.count(what)
        if length > self.remaining:
            raise self.truncated(what, self.position + length)
        self._kept_text += length
        if length > limit or self._kept_text > _MAX_KEPT_TEXT:
            raise self.fail(f"is corrupt: {what} is {length:,} bytes long, more than {limit:,}")
        return self.take(length, what).decode("utf-8", errors="replace")

    def skip_strings(self, count: int, what: str) -> None:
        """Step over `count` strings; the loop is inlined, a vocabulary has 262,144 of them."""
        unpack = struct.Struct("<Q").unpack_from
        done = 0
        while done < count:
            self._fill(8, what)
            buffer, at, last = self._buffer, self._at, len(self._buffer) - 8
            while done < count and at <= last:
                at += 8 + unpack(buffer, at)[0]
                done += 1
            over = at - len(buffer)
            self._at = min(at, len(buffer))
            if over > 0:
                self.skip(over, what)


def read_header(path: Path) -> Header:
    """Read and check the header of one GGUF file.

    Args:
        path: the file.

    Returns:
        Its metadata and tensor directory.

    Raises:
        ModelFileError: missing, unreadable, not GGUF, truncated or corrupt; one line says which.
    """
    try:
        # Opening a pipe would wait for ever, and nothing but a file has a length.
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path} is not a file")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _parse(_Reader(file, path, size), path, size)
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} does not exist") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _parse(reader: _Reader, path: Path, size: int) -> Header:
    version = _check_start(reader)
    tensor_count, value_count = reader.count("the header"), reader.count("the header")
    if value_count > min(_MAX_VALUES, reader.remaining // _MIN_KEY_VALUE):
        raise reader.fail(f"is truncated or corrupt: it claims {value_count:,} metadata values")
    if tensor_count > min(_MAX_TENSORS, reader.remaining // _MIN_TENSOR):
        raise reader.fail(f"is truncated or corrupt: it claims {tensor_count:,} tensors")
    metadata = _read_metadata(reader, value_count)
    alignment = _alignment(reader, metadata)
    tensors = _read_tensors(reader, tensor_count, alignment)
    data_start = -(-reader.position // alignment) * alignment
    for tensor in tensors:
        end = data_start + tensor.offset + tensor.size
        if end > size:
            raise reader.truncated(f"tensor {tensor.name}", end)
    return Header(path, version, size, data_start, metadata, tensors)


def _check_start(reader: _Reader) -> int:
    if reader.remaining < len(_MAGIC):
        raise reader.fail(f"is not a GGUF file (it has {reader.remaining} bytes)")
    magic = reader.take(4, "the header")
    if magic != _MAGIC:
        raise reader.fail(f"is not a GGUF file (starts with {magic!r})")
    version = reader.kind("the header")
    if version in _VERSIONS:
        return version
    if version and version & 0xFFFF == 0:
        raise reader.fail("is a big-endian GGUF file; only little-endian ones can be loaded")
    raise reader.fail(f"has GGUF version {version}; versions 2 and 3 can be loaded")


def _read_metadata(reader: _Reader, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for index in range(count):
        key = reader.text(f"the name of metadata value {index}", _MAX_KEY)
        if key in metadata:
            raise reader.fail(f"is corrupt: the metadata key {key!r} occurs twice")
        metadata[key] = _read_value(reader, reader.kind(key), key)
    return metadata


def _read_value(reader: _Reader, kind: int, key: str) -> Value:
    what = f"metadata value {key!r}"
    if kind == STRING:
        return reader.text(what, _MAX_TEXT)
    if kind == ARRAY:
        return _read_array(reader, what)
    return _scalar(reader, kind, what)


def _scalar(reader: _Reader, kind: int, what: str) -> int | float | bool:
    fmt = SCALARS.get(kind)
    if fmt is None:
        raise reader.fail(f"is corrupt: {what} has the unknown type {kind}")
    value = reader.number(fmt, what)
    return bool(value) if kind == BOOL else value


def _read_array(reader: _Reader, what: str) -> Value:
    kind, length = reader.kind(what), reader.count(what)
    if kind == ARRAY:
        raise reader.fail(f"is corrupt: {what} is an array of arrays")
    fmt = SCALARS.get(kind)
    if fmt is None and kind != STRING:
        raise reader.fail(f"is corrupt: {what} is an array of the unknown type {kind}")
    item_bytes = struct.calcsize(fmt) if fmt else 8
    if length * item_bytes > reader.remaining:
        raise reader.truncated(f"{what} of {length:,} items", reader.position + length * item_bytes)
    if fmt is None:
        if length > _MAX_STRINGS:
            raise reader.fail(f"is corrupt: {what} claims {length:,} strings")
        reader.skip_strings(length, what)
        return SkippedArray(length)
    if length > _KEEP_ITEMS:
        reader.skip(length * item_bytes, what)
        return SkippedArray(length)
    return tuple(_scalar(reader, kind, what) for _ in range(length))


def _alignment(reader: _Reader, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not 0 < value <= _MAX_ALIGNMENT
        or value & (value - 1)
    ):
        raise reader.fail(f"is corrupt: its alignment {value!r} is not a power of two")
    return value


def _read_tensors(reader: _Reader, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    tensors: list[TensorInfo] = []
    names: set[str] = set()
    expected = 0
    for index in range(count):
        tensor = _read_tensor(reader, index)
        if tensor.name in names:
            raise reader.fail(f"is corrupt: the tensor {tensor.name} occurs twice")
        # Tensors lie one behind the other, padded; anything else could make two of them overlap.
        if tensor.offset != expected:
            raise reader.fail(
                f"is corrupt: tensor {tensor.name} starts at {tensor.offset:,}, not at {expected:,}"
            )
        expected += -(-tensor.size // alignment) * alignment
        names.add(tensor.name)
        tensors.append(tensor)
    return tuple(tensors)


def _read_tensor(reader: _Reader, index: int) -> TensorInfo:
    name = reader.text(f"the name of tensor {index}", _MAX_TENSOR_NAME)
    what = f"the entry of tensor {name}"
    dims = reader.kind(what)
    if dims > _MAX_DIMS:
        raise reader.fail(f"is corrupt: tensor {name} has {dims} dimensions, more than {_MAX_DIMS}")
    shape = tuple(reader.count(what) for _ in range(dims))
    kind = TENSOR_TYPES.get(type_id := reader.kind(what))
    if kind is None:
        raise reader.fail(f"has tensor {name} of type {type_id}, which is not known here")
    elements = 1
    for length in shape:
        elements *= length
    if not 0 < elements <= _MAX_INT:
        raise reader.fail(f"is corrupt: tensor {name} has the impossible shape {shape}")
    if (shape[0] if shape else 1) % kind.block:
        raise reader.fail(
            f"is corrupt: rows of tensor {name} do not divide into blocks of {kind.block}"
        )
    size = elements // kind.block * kind.size
    return TensorInfo(name, kind.name, shape, reader.count(what), size)
