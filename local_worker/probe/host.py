"""The Linux host: processor and memory out of /proc, /sys and the control group.

The `parse_` functions are pure (text to facts). `read_host` is thin, takes the root of the file
tree, and treats a file that is not there as "not known". `lscpu` is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.probe.cgroup import CgroupLimits, read_limits
from local_worker.probe.hardware import Architecture, Cpu, Memory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# Kernel spelling -> the name used here; only what selects other kernels in llama.cpp (ggml-cpu).
_X86_SETS = {
    "ssse3": "ssse3",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "bmi2": "bmi2",
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "avx512vbmi": "avx512_vbmi",
}
_ARM_SETS = {
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fp16",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}

# (CPU implementer, CPU part) -> name. Arm's kernel prints no "model name".
_ARM_PARTS = {
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd84"): "Neoverse-V3",
    ("0x41", "0xd85"): "Cortex-X925",
    ("0x41", "0xd87"): "Cortex-A725",
    ("0xc0", "0xac3"): "Ampere-1",
    ("0xc0", "0xac4"): "Ampere-1a",
}

_CONTAINER_FILES = (".dockerenv", "run/.containerenv", "run/systemd/container")
_CONTAINER_GROUPS = ("docker", "kubepods", "containerd", "libpod", "lxc", "garden")
_VIRTUAL_PRODUCTS = ("KVM", "QEMU", "VMware", "VirtualBox", "Virtual Machine", "Google Compute")


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """What `/proc/cpuinfo` tells.

    Attributes:
        model: the vendor's name; kinds joined with "+" where cores differ.
        architecture: instruction set family.
        processors: numbers of the logical processors.
        flags: raw feature words, those that all processors have.
        physical: processor number -> (package, core), where the kernel says it (x86).
        fast: numbers of the big cores where kinds differ and one is known to be faster.
    """

    model: str
    architecture: Architecture
    processors: tuple[int, ...]
    flags: frozenset[str]
    physical: dict[int, tuple[str, str]]
    fast: frozenset[int] = frozenset()

    @property
    def virtual(self) -> bool:
        """Whether the processor itself says that a hypervisor runs it (x86 only)."""
        return "hypervisor" in self.flags


@dataclass(frozen=True, slots=True)
class Host:
    """The facts of a Linux host that go into `Hardware`.

    Attributes:
        cpu: the processor.
        memory: main memory, without the measured bandwidth.
        os_version: distribution and kernel.
        in_container: whether this looks like a container.
        in_virtual_machine: whether a hypervisor was seen.
        cache_bytes: the largest cache of one core complex, None where not known.
    """

    cpu: Cpu
    memory: Memory
    os_version: str
    in_container: bool
    in_virtual_machine: bool
    cache_bytes: int | None


def parse_cpuinfo(text: str) -> CpuInfo:
    """Read `/proc/cpuinfo` of x86 and 64-bit Arm."""
    blocks = [block for block in _blocks(text) if "processor" in block]
    numbers = tuple(int(block["processor"]) for block in blocks if block["processor"].isdigit())
    features = [
        frozenset((block.get("flags") or block.get("Features") or "").split()) for block in blocks
    ]
    names = {int(block["processor"]): _core_name(block) for block in blocks}
    kinds = sorted(set(names.values()))
    architecture: Architecture = "other"
    if any("flags" in block for block in blocks):
        architecture = "x86_64"
    elif any("Features" in block for block in blocks):
        architecture = "arm64"
    return CpuInfo(
        model="+".join(reversed(kinds)) or "unknown",
        architecture=architecture,
        processors=numbers,
        flags=frozenset.intersection(*features) if features else frozenset(),
        physical={
            int(block["processor"]): (block.get("physical id", "0"), block["core id"])
            for block in blocks
            if "core id" in block
        },
        fast=_fast_cores(names),
    )


def parse_meminfo(text: str) -> tuple[int, int]:
    """Total and available bytes out of `/proc/meminfo`; zeros where they are not in it."""
    figures = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            figures[name] = int(words[0]) * 1024
    total = figures.get("MemTotal", 0)
    # MemAvailable came with Linux 3.14; some sandboxes leave it out as well.
    rough = sum(figures.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
    return total, min(total, figures.get("MemAvailable", rough))


def parse_cpu_list(text: str) -> frozenset[int]:
    """Read a kernel list such as "0-3,8,10-11"."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def parse_allowed(status: str) -> frozenset[int]:
    """The affinity mask out of `/proc/self/status`; empty where it is not in it."""
    for line in status.splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return parse_cpu_list(line.partition(":")[2])
    return frozenset()


def parse_size(text: str) -> int:
    """Turn sysfs's "32768K" or "32M" into bytes; 0 where it is neither."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    digits = text.strip().rstrip("KMG")
    return int(digits) * units.get(text.strip()[-1], 1) if digits.isdigit() else 0


def make_cpu(info: CpuInfo, allowed: Collection[int], quota: float | None) -> Cpu:
    """Combine what the machine has with what affinity and quota leave."""
    usable = frozenset(info.processors).intersection(allowed) or frozenset(info.processors)
    cores = float(max(1, len(usable)))
    names = _ARM_SETS if info.architecture == "arm64" else _X86_SETS
    physical = {info.physical[number] for number in usable if number in info.physical}
    return Cpu(
        model=info.model,
        architecture=info.architecture,
        logical_cores=max(1, len(info.processors)),
        usable_cores=cores if quota is None else min(cores, quota),
        instruction_sets=frozenset(name for flag, name in names.items() if flag in info.flags),
        performance_cores=len(info.fast & usable) if info.fast else None,
        physical_cores=len(physical) or None,
    )


def make_memory(total: int, available: int, limits: CgroupLimits) -> Memory:
    """Combine the machine's memory with the group's; a limit above the total is none."""
    limit = limits.memory_limit
    headroom = limits.memory_headroom
    if limit is not None and total and limit >= total:
        limit = None
    return Memory(
        total=total,
        available=available if headroom is None else min(available, headroom),
        limit=limit,
    )


def read_host(root: Path = Path("/")) -> Host:
    """Read the host.

    Args:
        root: where `proc`, `sys` and `etc` are; tests pass a tree of captured files.
    """
    info = parse_cpuinfo(_text(root / "proc/cpuinfo"))
    hybrid = parse_cpu_list(_text(root / "sys/devices/cpu_core/cpus"))
    if hybrid:
        info = _with_fast(info, hybrid)
    limits = read_limits(root)
    total, available = parse_meminfo(_text(root / "proc/meminfo"))
    return Host(
        cpu=make_cpu(info, parse_allowed(_text(root / "proc/self/status")), limits.cpu_quota),
        memory=make_memory(total, available, limits),
        os_version=_os_version(root),
        in_container=_in_container(root),
        in_virtual_machine=info.virtual or _virtual_by_firmware(root),
        cache_bytes=_largest_cache(root),
    )


def has_nvidia_device(root: Path = Path("/")) -> bool:
    """Whether the PCI bus shows an NVIDIA display or compute device.

    A container sees the host's bus here even when it was given no device.
    """
    for device in (root / "sys/bus/pci/devices").glob("*"):
        vendor, kind = _text(device / "vendor").strip(), _text(device / "class").strip()
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def _blocks(text: str) -> Iterator[dict[str, str]]:
    for block in text.split("\n\n"):
        lines = (line.partition(":") for line in block.splitlines())
        yield {name.strip(): value.strip() for name, colon, value in lines if colon}


def _core_name(block: dict[str, str]) -> str:
    if "model name" in block:
        return block["model name"]
    implementer, part = block.get("CPU implementer", ""), block.get("CPU part", "")
    return _ARM_PARTS.get((implementer, part), f"{implementer} {part}".strip() or "unknown")


def _fast_cores(names: dict[int, str]) -> frozenset[int]:
    """The Cortex-X cores of a chip that has other kinds too (GB10: ten X925, ten A725)."""
    fast = frozenset(number for number, name in names.items() if name.startswith("Cortex-X"))
    return fast if len(fast) < len(names) else frozenset()


def _with_fast(info: CpuInfo, fast: frozenset[int]) -> CpuInfo:
    """Intel's hybrid chips list their big cores by logical processor; count physical ones."""
    first_of_core: dict[tuple[str, str], int] = {}
    for number in sorted(fast):
        first_of_core.setdefault(info.physical.get(number, ("", str(number))), number)
    return CpuInfo(
        model=info.model,
        architecture=info.architecture,
        processors=info.processors,
        flags=info.flags,
        physical=info.physical,
        fast=frozenset(first_of_core.values()),
    )


def _os_version(root: Path) -> str:
    pretty = "Linux"
    for line in _text(root / "etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            pretty = line.partition("=")[2].strip().strip('"')
    kernel = _text(root / "proc/sys/kernel/osrelease").strip()
    return f"{pretty}, kernel {kernel}" if kernel else pretty


def _in_container(root: Path) -> bool:
    if any((root / name).exists() for name in _CONTAINER_FILES):
        return True
    groups = _text(root / "proc/self/cgroup")
    return any(word in groups for word in _CONTAINER_GROUPS)


def _virtual_by_firmware(root: Path) -> bool:
    """Arm has no hypervisor flag: ask the firmware tables, the device tree, the kernel's name."""
    product = _text(root / "sys/class/dmi/id/product_name")
    vendor = _text(root / "sys/class/dmi/id/sys_vendor")
    kernel = _text(root / "proc/sys/kernel/osrelease")
    return (
        any(word in product or word in vendor for word in _VIRTUAL_PRODUCTS)
        or ("Amazon EC2" in vendor and ".metal" not in product)
        or (root / "proc/device-tree/hypervisor").exists()
        or (root / "sys/hypervisor/type").exists()
        or "linuxkit" in kernel
        or "microsoft" in kernel.lower()
    )


def _largest_cache(root: Path) -> int | None:
    sizes = (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((parse_size(_text(path)) for path in sizes), default=0) or None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
