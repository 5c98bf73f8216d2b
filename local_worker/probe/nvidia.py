"""NVIDIA devices through NVML. The library comes in as an object, so tests script it.

No device and no driver is a fact (`Nvidia()`); trouble with a device that is there becomes
`Nvidia.problem`, one line that says what to do. Nothing here creates a CUDA context.

Device numbers follow NVML (PCI order). CUDA counts the fastest first unless CUDA_DEVICE_ORDER is
PCI_BUS_ID, so on a machine with different cards a number in CUDA_VISIBLE_DEVICES may mean another
one; a UUID is never ambiguous.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from local_worker.probe.hardware import Gpu, Nvidia

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_worker.probe.nvml import Nvml

_T = TypeVar("_T")

# nvmlReturn_t; the numbers are part of NVML's stable C interface.
_NOT_SUPPORTED = 3
_NO_PERMISSION = 4
_DRIVER_NOT_LOADED = 9
_LIBRARY_NOT_FOUND = 12
_GPU_IS_LOST = 15
_RESET_REQUIRED = 16
_VERSION_MISMATCH = 18

_CLOCK_MEMORY = 2  # nvmlClockType_t

_ADVICE = {
    _NO_PERMISSION: (
        "no permission to talk to the NVIDIA driver: give this user access to /dev/nvidia* "
        "(often the group video or render)"
    ),
    _DRIVER_NOT_LOADED: (
        "the NVIDIA kernel driver is not loaded: run nvidia-smi, then load or reinstall the driver"
        " (sudo modprobe nvidia) or reboot"
    ),
    _LIBRARY_NOT_FOUND: (
        "there is an NVIDIA device but no driver library (libnvidia-ml.so.1): install the NVIDIA "
        "driver; in a container, start it with --gpus all"
    ),
    _GPU_IS_LOST: "it fell off the bus: reboot, then check power and cooling",
    _RESET_REQUIRED: "it needs a reset: stop what uses it, then nvidia-smi --gpu-reset or reboot",
    _VERSION_MISMATCH: (
        "the NVIDIA library and the loaded kernel driver have different versions, as after an "
        "update: reboot (or unload and load the nvidia modules)"
    ),
}

# Memory on the same chip's bus as the processor's: NVML's memory figures mean nothing there.
_UNIFIED = ("GB10", "Orin", "Thor")

# GB/s by whole words of the name, the longer ones first. Source: vendor data sheets.
_BANDWIDTH = (
    ("GB10", 273),
    ("GB300", 8000),
    ("GB200", 8000),
    ("B300", 8000),
    ("B200", 8000),
    ("GH200 480GB", 4000),
    ("GH200 144G HBM3e", 4900),
    ("H200 NVL", 4800),
    ("H200", 4800),
    ("H100 NVL", 3900),
    ("H100 PCIe", 2000),
    ("H100", 3350),
    ("A100-SXM4-40GB", 1555),
    ("A100-PCIE-40GB", 1555),
    ("A100 80GB PCIe", 1935),
    ("A100", 2039),
    ("RTX PRO 6000", 1792),
    ("RTX 6000 Ada", 960),
    ("RTX A6000", 768),
    ("L40S", 864),
    ("L40", 864),
    ("L4", 300),
    ("A40", 696),
    ("A10G", 600),
    ("A10", 600),
    ("Tesla T4", 320),
    ("V100", 900),
    ("RTX 5090", 1792),
    ("RTX 5080", 960),
    ("RTX 5070 Ti", 896),
    ("RTX 4090", 1008),
    ("RTX 4080", 717),
    ("RTX 3090 Ti", 1008),
    ("RTX 3090", 936),
    ("RTX 3060", 360),
    ("Thor", 273),
)


@dataclass(frozen=True, slots=True)
class _Slice:
    name: str
    uuid: str
    total: int
    free: int

    @property
    def label(self) -> str:
        profile = re.search(r"MIG (\S+)", self.name)
        return f"{profile[1] if profile else self.name} {self.total / 2**30:.1f} GiB {self.uuid}"


@dataclass(frozen=True, slots=True)
class _Device:
    gpu: Gpu
    slices: tuple[_Slice, ...] = ()


def read_nvidia(nvml: Nvml | None, *, device_present: bool, visible: str | None = None) -> Nvidia:
    """Ask NVML for all devices that this process may use.

    Args:
        nvml: the module from `load_nvml`, or a scripted object; None where it is not installed.
        device_present: whether the PCI bus shows an NVIDIA device; without one a missing driver
            is no problem.
        visible: the value of CUDA_VISIBLE_DEVICES, None where it is not set.
    """
    if nvml is None:
        missing = "the Python package nvidia-ml-py is missing: pip install nvidia-ml-py"
        return Nvidia(problem=missing if device_present else None)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        no_driver = _code(error) in {_LIBRARY_NOT_FOUND, _DRIVER_NOT_LOADED}
        return Nvidia(problem=None if no_driver and not device_present else _advice(error))
    try:
        return _read_all(nvml, visible)
    except nvml.NVMLError as error:
        return Nvidia(problem=_advice(error))
    finally:
        _optional(nvml, nvml.nvmlShutdown)


def known_bandwidth(name: str) -> float | None:
    """Data-sheet memory bandwidth of a card in bytes per second, None for an unknown name."""
    if "Laptop" in name or "Max-Q" in name:
        return None
    for words, figure in _BANDWIDTH:
        # "RTX 4080" is not the SUPER, "A40" is not the A4000.
        if re.search(rf"\b{words}\b(?! Ti| SUPER)", name):
            return figure * 1e9
    return None


def _read_all(nvml: Nvml, visible: str | None) -> Nvidia:
    cuda = _optional(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
    devices: list[_Device] = []
    problems: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            devices.append(_read_device(nvml, index))
        except nvml.NVMLError as error:
            problems.append(f"GPU {index} cannot be used: {_advice(error)}")
    gpus = _visible(devices, visible)
    if devices and not gpus:
        problems.append(f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU: unset or correct it")
    problems += [
        f"GPU {gpu.index} has MIG on but no slice: create one (nvidia-smi mig -cgi ... -C) or "
        "turn MIG off (nvidia-smi -mig 0)"
        for gpu in gpus
        if gpu.mig_enabled and not gpu.mig_slices
    ]
    return Nvidia(
        gpus=gpus,
        driver=_optional(nvml, nvml.nvmlSystemGetDriverVersion),
        # 13020 is CUDA 13.2
        cuda_version=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        problem="; ".join(problems) or None,
    )


def _read_device(nvml: Nvml, index: int) -> _Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    mig = _optional(nvml, partial(nvml.nvmlDeviceGetMigMode, handle))
    enabled = mig is not None and mig[0] == 1
    total, free = _memory(nvml, handle, name, mig_enabled=enabled)
    unified = total is None and not enabled
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    milliwatts = _optional(nvml, partial(nvml.nvmlDeviceGetEnforcedPowerLimit, handle))
    gpu = Gpu(
        index=index,
        name=name,
        compute_capability=(major, minor),
        memory_total=total,
        memory_free=free,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        mig_enabled=enabled,
        power_limit_watts=None if milliwatts is None else milliwatts / 1000,
        unified_memory=unified,
        memory_bandwidth=_bandwidth(nvml, handle, name, unified=unified),
    )
    return _Device(gpu, _slices(nvml, handle) if enabled else ())


def _memory(
    nvml: Nvml, handle: object, name: str, *, mig_enabled: bool
) -> tuple[int | None, int | None]:
    """Total and free bytes; (None, None) for unified memory.

    A GB10 answers "not supported" with most drivers; a zero or the system's own figure has been
    seen too, so the name decides first.
    """
    if any(word in name for word in _UNIFIED):
        return None, None
    try:
        info = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        # A container that was given one slice may not ask about the whole device.
        if mig_enabled or _code(error) == _NOT_SUPPORTED:
            return None, None
        raise
    return (info.total, info.free) if info.total else (None, None)


def _bandwidth(nvml: Nvml, handle: object, name: str, *, unified: bool) -> float | None:
    """Peak memory bandwidth in bytes per second.

    Two transfers per clock of the memory bus, as CUDA's deviceQuery computes it: it comes out
    within 3% of the data sheet from T4 to H200, and knows the variants that share a name.
    """
    clock = _optional(nvml, partial(nvml.nvmlDeviceGetMaxClockInfo, handle, _CLOCK_MEMORY))
    width = _optional(nvml, partial(nvml.nvmlDeviceGetMemoryBusWidth, handle))
    known = known_bandwidth(name)
    if unified and known is not None:
        return known
    return clock * 1e6 * 2 * width / 8 if clock and width else known


def _slices(nvml: Nvml, device: object) -> tuple[_Slice, ...]:
    found = []
    for index in range(_optional(nvml, partial(nvml.nvmlDeviceGetMaxMigDeviceCount, device)) or 0):
        handle = _optional(nvml, partial(nvml.nvmlDeviceGetMigDeviceHandleByIndex, device, index))
        if handle is None:
            continue  # the numbers have gaps where no slice was made
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
        found.append(_Slice(name, uuid, memory.total, memory.free))
    return tuple(found)


def _visible(devices: list[_Device], visible: str | None) -> tuple[Gpu, ...]:
    """Apply CUDA_VISIBLE_DEVICES: numbers, GPU-... or MIG-..., up to the first unknown word."""
    if visible is None:
        return tuple(_as_seen(device) for device in devices)
    seen: list[Gpu] = []
    for word in (part.strip() for part in visible.split(",")):
        gpu = next((gpu for device in devices if (gpu := _match(device, word)) is not None), None)
        if gpu is None:
            break  # CUDA ignores everything behind a word it does not know, "-1" among them
        seen.append(gpu)
    return tuple(dict.fromkeys(seen))


def _match(device: _Device, word: str) -> Gpu | None:
    if word.isdigit():
        return _as_seen(device) if int(word) == device.gpu.index else None
    if word.startswith("GPU-"):
        return _as_seen(device) if device.gpu.uuid.startswith(word) else None
    if word.startswith("MIG-"):
        chosen = (piece for piece in device.slices if piece.uuid.startswith(word))
        return next((_as_seen(device, piece) for piece in chosen), None)
    return None


def _as_seen(device: _Device, chosen: _Slice | None = None) -> Gpu:
    """The device as a CUDA process gets it: with MIG on, one slice, the first unless named."""
    gpu = device.gpu
    if not gpu.mig_enabled:
        return gpu
    piece = chosen or (device.slices[0] if device.slices else _Slice("", gpu.uuid, 0, 0))
    bandwidth = None
    if gpu.memory_total and gpu.memory_bandwidth:
        # A slice owns its share of the memory channels.
        bandwidth = gpu.memory_bandwidth * piece.total / gpu.memory_total
    return replace(
        gpu,
        uuid=piece.uuid,
        memory_total=piece.total,
        memory_free=piece.free,
        mig_slices=tuple(part.label for part in device.slices),
        memory_bandwidth=bandwidth,
    )


def _optional(nvml: Nvml, call: Callable[[], _T]) -> _T | None:
    """What an NVML call returns; None where this device or driver does not offer it."""
    try:
        return call()
    except nvml.NVMLError:
        return None


def _code(error: Exception) -> int:
    return int(getattr(error, "value", -1))


def _advice(error: Exception) -> str:
    return _ADVICE.get(_code(error), f"NVML says: {error}; run nvidia-smi to see more")
