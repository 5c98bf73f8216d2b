"""Memory read bandwidth: a one-second measurement, kept in a file of the user's cache folder.

Decoding on a processor reads every active weight once per token, so this figure bounds tokens per
second. It is measured because no table knows how many channels a machine has populated, nor what
a virtual machine's neighbours leave of them.

How: one thread per usable core runs libc's `memcmp` over two halves of its own buffer. ctypes
releases the interpreter's lock for the call, `memcmp` is vectorised in every libc, and the buffers
are far larger than the caches. No engine and no numpy is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import mmap
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_MIB = 1 << 20
_CHUNK = 4 * _MIB  # one call: about a millisecond, long against the cost of making it
_WINDOWS = 10
_DEFAULT_CACHE = 64 * _MIB  # a processor cache that could not be read is taken to be large
_LEAST_TOTAL = 256 * _MIB
_MOST_TOTAL = 4096 * _MIB
_UNDISTURBED = 0.9  # share of the cores' time that the measurement must have had


@dataclass(frozen=True, slots=True)
class Measured:
    """A fresh measurement: its best window, and the share of its cores' time it got there."""

    bytes_per_second: float
    cpu_share: float


Measure = Callable[[int, int], Measured]
"""(threads, bytes of buffer per thread) -> what was measured."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured bandwidth.

    Attributes:
        bytes_per_second: the best window of the measurement.
        date: the day of it, ISO format, UTC.
        cached: whether it comes from the file.
        disturbed: other programs had part of the cores, so it is a low estimate. It is not kept.
    """

    bytes_per_second: float
    date: str
    cached: bool = False
    disturbed: bool = False


def buffer_bytes(threads: int, cache: int | None, available: int) -> int | None:
    """How large each thread's buffer should be.

    Args:
        threads: how many read at once.
        cache: bytes of the largest processor cache, None where not known.
        available: bytes of memory that may be taken; at most an eighth is used.

    Returns:
        Bytes per thread, a multiple of what one step reads; None where so little memory is free
        that the cache would be measured instead.
    """
    cache = cache or _DEFAULT_CACHE
    wanted = min(_MOST_TOTAL, max(_LEAST_TOTAL, 4 * cache * threads))
    total = min(wanted, available // 8)
    each = total // threads // (2 * _CHUNK) * (2 * _CHUNK)
    return each if each and each * threads >= 2 * cache else None


def measure_read_bandwidth(threads: int, each: int, seconds: float = 1.0) -> Measured:
    """Read memory from all threads at once.

    The best of ten windows counts, as in STREAM: a neighbour can only slow a window down.

    Args:
        threads: one per core.
        each: bytes of buffer per thread, a multiple of 8 MiB.
        seconds: how long to read; filling the buffers comes on top.

    Raises:
        OSError: no memory for the buffers.
    """
    maps = [mmap.mmap(-1, each) for _ in range(threads)]
    read = [0] * threads
    stop = threading.Event()
    ready = threading.Barrier(threads + 1)
    workers = [
        threading.Thread(target=_read_until, args=(maps[i], read, i, ready, stop), daemon=True)
        for i in range(threads)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    samples = [(time.perf_counter(), 0, time.process_time())]
    for _ in range(_WINDOWS):
        time.sleep(seconds / _WINDOWS)
        samples.append((time.perf_counter(), sum(read), time.process_time()))
    stop.set()
    for worker in workers:
        worker.join()
    windows = (
        (later[1] - earlier[1], later[2] - earlier[2], later[0] - earlier[0])
        for earlier, later in itertools.pairwise(samples)
    )
    return max(
        (Measured(size / wall, busy / (wall * threads)) for size, busy, wall in windows),
        key=lambda window: window.bytes_per_second,
    )


def cache_file(environ: Mapping[str, str], home: Path) -> Path:
    """Where readings are kept: `$XDG_CACHE_HOME` or `~/.cache`."""
    base = environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path must be ignored.
    folder = Path(base) if base.startswith("/") else home / ".cache"
    return folder / "local-worker" / "bandwidth.json"


def read_bandwidth(
    key: str,
    threads: int,
    each: int | None,
    path: Path,
    *,
    skip: bool = False,
    measure: Measure = measure_read_bandwidth,
) -> Reading | None:
    """Take the reading for this machine from the file, or measure and keep it.

    A file that is missing, corrupt or not writable is no error: it is measured again.

    Args:
        key: names the machine: processor model and usable cores, nothing that a boot changes.
        threads: one per usable core.
        each: bytes of buffer per thread, None for "cannot be measured".
        path: the cache file.
        skip: neither look nor measure.
        measure: does the work.
    """
    if skip:
        return None
    entries = _load(path)
    if (kept := _reading(entries.get(key))) is not None:
        return kept
    if each is None:
        return None
    try:
        measured = measure(threads, each)
    except OSError:
        return None
    figure, date = measured.bytes_per_second, datetime.now(UTC).date().isoformat()
    if measured.cpu_share < _UNDISTURBED:
        return Reading(figure, date, disturbed=True)
    _save(path, {**entries, key: {"bytes_per_second": round(figure), "date": date}})
    return Reading(figure, date)


def _read_until(
    memory: mmap.mmap, read: list[int], i: int, ready: threading.Barrier, stop: threading.Event
) -> None:
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    size = len(memory)
    view = (ctypes.c_char * size).from_buffer(memory)
    start = ctypes.addressof(view)
    # Untouched pages all map to one zero page, which would be read from the cache.
    ctypes.memset(start, 1, size)
    ready.wait()
    half, offset = size // 2, 0
    while not stop.is_set():
        compare(start + offset, start + half + offset, _CHUNK)
        read[i] += 2 * _CHUNK
        offset = (offset + _CHUNK) % half


def _load(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _reading(entry: object) -> Reading | None:
    match entry:
        case {"bytes_per_second": int() | float() as figure, "date": str() as date}:
            # NaN compares false, so it is thrown out here as well.
            return Reading(float(figure), date, cached=True) if 0 < figure < float("inf") else None
    return None


def _save(path: Path, entries: Mapping[str, Any]) -> None:
    # Written beside and renamed, so that a second probe never reads half a file.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{time.time_ns()}.tmp")
        beside.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)
