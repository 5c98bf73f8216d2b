"""Reads the whole machine into one `Hardware`: the only place where all the readers meet."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from local_worker.probe.apple import read_mac
from local_worker.probe.bandwidth import buffer_bytes, cache_file, read_bandwidth
from local_worker.probe.hardware import Cpu, Hardware, Memory
from local_worker.probe.host import has_nvidia_device, read_host
from local_worker.probe.nvidia import read_nvidia
from local_worker.probe.nvml import Nvml, load_nvml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def probe_hardware(
    *,
    measure_bandwidth: bool = True,
    root: Path = Path("/"),
    environ: Mapping[str, str] | None = None,
    system: str | None = None,
    load: Callable[[], Nvml | None] = load_nvml,
) -> Hardware:
    """Read this machine. Takes a second or two the first time, milliseconds when cached.

    Args:
        measure_bandwidth: whether memory bandwidth is wanted (from the cache file, or measured).
        root: where `proc` and `sys` are; tests pass a tree of captured files.
        environ: environment variables, the process's own by default.
        system: as `platform.system()` spells it, which is the default.
        load: gives the NVML module.
    """
    environ = os.environ if environ is None else environ
    system = platform.system() if system is None else system
    if system == "Linux":
        hardware, cache = _linux(root, environ, load)
    elif system == "Darwin":
        hardware, cache = _darwin()
    else:
        hardware, cache = _other(), None
    return _with_bandwidth(hardware, cache, environ) if measure_bandwidth else hardware


def bandwidth_key(hardware: Hardware) -> str:
    """What a bandwidth reading is filed under; the same after a reboot.

    The memory is in it because virtual machines of every size report one model name; rounded, as
    the kernel keeps a slightly different share for itself each time.
    """
    cpu = hardware.cpu
    return f"{cpu.model}, {cpu.usable_cores:g} cores, {hardware.memory.total / 2**30:.0f} GiB"


def _linux(
    root: Path, environ: Mapping[str, str], load: Callable[[], Nvml | None]
) -> tuple[Hardware, int | None]:
    host = read_host(root)
    nvidia = read_nvidia(
        load(),
        device_present=has_nvidia_device(root),
        visible=environ.get("CUDA_VISIBLE_DEVICES"),
    )
    hardware = Hardware(
        os="linux",
        os_version=host.os_version,
        cpu=host.cpu,
        memory=host.memory,
        nvidia=nvidia,
        in_container=host.in_container,
        in_virtual_machine=host.in_virtual_machine,
    )
    return hardware, host.cache_bytes


def _darwin() -> tuple[Hardware, int | None]:
    mac = read_mac()
    hardware = Hardware(
        os="darwin",
        os_version=mac.os_version,
        cpu=mac.cpu,
        memory=mac.memory,
        apple=mac.apple,
        in_virtual_machine=mac.in_virtual_machine,
        notes=mac.notes,
    )
    return hardware, mac.cache_bytes


def _other() -> Hardware:
    memory = psutil.virtual_memory()
    cores = os.cpu_count() or 1
    return Hardware(
        os="other",
        os_version=platform.platform(),
        cpu=Cpu(platform.processor() or "unknown", "other", cores, float(cores)),
        memory=Memory(total=memory.total, available=memory.available),
        notes=("this operating system is not supported: only cores and memory were read",),
    )


def _with_bandwidth(hardware: Hardware, cache: int | None, environ: Mapping[str, str]) -> Hardware:
    threads = max(1, math.floor(hardware.cpu.usable_cores))
    path = cache_file(environ, Path.home())
    each = buffer_bytes(threads, cache, hardware.memory.usable)
    reading = read_bandwidth(bandwidth_key(hardware), threads, each, path)
    if reading is None:
        note = "memory bandwidth could not be measured: too little memory is free"
        return replace(hardware, notes=(*hardware.notes, note))
    memory = replace(hardware.memory, read_bandwidth=reading.bytes_per_second)
    notes = hardware.notes
    if reading.disturbed:
        notes += ("other programs used the processor: the memory bandwidth is a low estimate",)
    elif reading.cached:
        notes += (f"memory bandwidth was measured on {reading.date}; delete {path} to redo it",)
    return replace(hardware, memory=memory, notes=notes)
