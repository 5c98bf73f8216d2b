"""Limits that a control group puts on this process: pure parsers, and a reader of version 1 and 2.

A limit may sit on any ancestor of the process's own group, so the whole chain is read and the
tightest one wins. Page cache counts against a group, but the kernel drops it before it refuses
memory; `active_file` and `inactive_file` are therefore taken off what is in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Version 1 spells "no limit" as the largest page-aligned 64-bit number.
_UNLIMITED_V1 = 1 << 60


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """What the groups of this process leave to it; None means no limit.

    Attributes:
        cpu_quota: in cores (1.5 is one and a half).
        memory_limit: bytes, the lowest on the way up.
        memory_headroom: bytes that can still be taken before a group's limit is hit.
    """

    cpu_quota: float | None = None
    memory_limit: int | None = None
    memory_headroom: int | None = None


def parse_group_paths(text: str) -> dict[str, str]:
    """Turn `/proc/self/cgroup` into {controller: path}; version 2 has the controller ``""``."""
    paths = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def parse_cpu_max(text: str) -> float | None:
    """Turn a version 2 `cpu.max` ("150000 100000", "max 100000") into cores."""
    quota, _, period = text.strip().partition(" ")
    return cores_of_quota(_number(quota), _number(period or "100000"))


def cores_of_quota(quota_us: int | None, period_us: int | None) -> float | None:
    """Cores that a quota per period is worth; None where there is no quota (-1 in version 1)."""
    if not quota_us or not period_us or quota_us < 0 or period_us < 0:
        return None
    return quota_us / period_us


def parse_reclaimable(memory_stat: str) -> int:
    """Bytes of page cache in a `memory.stat` of either version.

    Version 1 keeps the figures of a subtree under `total_...`; its plain ones leave out children.
    """
    figures = {}
    for line in memory_stat.splitlines():
        name, _, value = line.partition(" ")
        figures[name] = _number(value) or 0
    prefix = "total_" if "total_inactive_file" in figures else ""
    return figures.get(f"{prefix}inactive_file", 0) + figures.get(f"{prefix}active_file", 0)


def read_limits(root: Path) -> CgroupLimits:
    """Read the limits of this process.

    Args:
        root: where `proc` and `sys` are, "/" on a live machine.
    """
    paths = parse_group_paths(_text(root / "proc/self/cgroup"))
    mount = root / "sys/fs/cgroup"
    quotas: list[float | None] = []
    memory: list[tuple[int, int]] = []
    if "" in paths:
        for group in _ancestors(mount, paths[""]):
            quotas.append(parse_cpu_max(_text(group / "cpu.max")))
            memory += _memory_v2(group)
    quotas += [_cpu_v1(group) for group in _ancestors(mount / "cpu", paths.get("cpu", "/"))]
    for group in _ancestors(mount / "memory", paths.get("memory", "/")):
        memory += _memory_v1(group)
    return CgroupLimits(
        cpu_quota=min((quota for quota in quotas if quota is not None), default=None),
        memory_limit=min((limit for limit, _ in memory), default=None),
        memory_headroom=min((headroom for _, headroom in memory), default=None),
    )


def _ancestors(mount: Path, path: str) -> Iterator[Path]:
    """The group and all above it, as far as they are mounted here.

    Inside a container the path is often the host's and only the mount's root exists. A ".." means
    that the group is outside of this namespace: then too only the root can be read.
    """
    relative = PurePosixPath(path.lstrip("/"))
    if ".." in relative.parts:
        relative = PurePosixPath()
    for part in (relative, *relative.parents):
        if (mount / part).is_dir():
            yield mount / part


def _memory_v2(group: Path) -> list[tuple[int, int]]:
    # Above `memory.high` the kernel throttles the group to a crawl, so it is a limit here too.
    limits = [_number(_text(group / name)) for name in ("memory.max", "memory.high")]
    known = [limit for limit in limits if limit is not None]
    return _with_headroom(group, min(known, default=None), "memory.current")


def _memory_v1(group: Path) -> list[tuple[int, int]]:
    limit = _number(_text(group / "memory.limit_in_bytes"))
    if limit is not None and limit >= _UNLIMITED_V1:
        limit = None
    return _with_headroom(group, limit, "memory.usage_in_bytes")


def _with_headroom(group: Path, limit: int | None, usage_file: str) -> list[tuple[int, int]]:
    if limit is None:
        return []
    used = _number(_text(group / usage_file)) or 0
    pinned = max(0, used - parse_reclaimable(_text(group / "memory.stat")))
    return [(limit, max(0, limit - pinned))]


def _cpu_v1(group: Path) -> float | None:
    quota = _number(_text(group / "cpu.cfs_quota_us"))
    return cores_of_quota(quota, _number(_text(group / "cpu.cfs_period_us")))


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
