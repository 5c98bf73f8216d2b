"""Apple silicon: chip, unified memory and what the GPU may use, out of `sysctl` and `vm_stat` text.

Written against captured text; it has not run on a Mac. The parsers are pure, `read_mac` runs the
three commands. A bandwidth comes from Apple's data sheets, by chip and number of GPU cores.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from local_worker.probe.hardware import Apple, Architecture, Cpu, Memory

_GIB = 1 << 30

# chip -> ((least GPU cores, GB/s), ...), most cores first; from Apple's technical specifications.
_BANDWIDTH: dict[str, tuple[tuple[int, float], ...]] = {
    "M1": ((0, 68.25),),
    "M1 Pro": ((0, 200),),
    "M1 Max": ((0, 400),),
    "M1 Ultra": ((0, 800),),
    "M2": ((0, 100),),
    "M2 Pro": ((0, 200),),
    "M2 Max": ((0, 400),),
    "M2 Ultra": ((0, 800),),
    "M3": ((0, 100),),
    "M3 Pro": ((0, 150),),
    "M3 Max": ((40, 400), (0, 300)),
    "M3 Ultra": ((0, 819),),
    "M4": ((0, 120),),
    "M4 Pro": ((0, 273),),
    "M4 Max": ((40, 546), (0, 410)),
    "M5": ((0, 153),),
    "M5 Pro": ((0, 307),),
    "M5 Max": ((40, 614), (0, 460)),
}

_ARM_FEATURES = {
    "FEAT_DotProd": "dotprod",
    "FEAT_FP16": "fp16",
    "FEAT_I8MM": "i8mm",
    "FEAT_BF16": "bf16",
    "FEAT_SME": "sme",
}
_X86_FEATURES = {"AVX1.0": "avx", "F16C": "f16c", "FMA": "fma", "AVX2": "avx2", "BMI2": "bmi2"}

Run = Callable[[tuple[str, ...]], str]
"""Runs a command and returns what it printed, "" where it is missing or fails."""


@dataclass(frozen=True, slots=True)
class Mac:
    """The facts of a Mac that go into `Hardware`."""

    cpu: Cpu
    memory: Memory
    os_version: str
    apple: Apple | None
    cache_bytes: int | None
    in_virtual_machine: bool = False
    notes: tuple[str, ...] = ()


def parse_sysctl(text: str) -> dict[str, str]:
    """Turn `sysctl` output ("name: value" lines) into a mapping."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def parse_vm_stat(text: str) -> int:
    """Bytes that can be taken now: free, speculative, inactive and purgeable pages."""
    size = re.search(r"page size of (\d+) bytes", text)
    names = ("Pages free", "Pages speculative", "Pages inactive", "Pages purgeable")
    figures = parse_sysctl(text)
    pages = sum(_number(figures.get(name, "0").rstrip(".")) for name in names)
    return pages * (int(size[1]) if size else 16384)


def parse_gpu_cores(ioreg: str) -> int | None:
    """The GPU core count out of `ioreg -rc AGXAccelerator`."""
    found = re.search(r'"gpu-core-count"\s*=\s*(\d+)', ioreg)
    return int(found[1]) if found else None


def gpu_memory_limit(total: int, wired_limit_mb: int) -> int:
    """Bytes that Metal may wire.

    With `iogpu.wired_limit_mb` at 0 the system's default holds. Metal reports it as
    recommendedMaxWorkingSetSize; it has been two thirds of the memory up to 36 GB and three
    quarters above, and newer systems give more (107.5 of 128 GiB was reported), so this is an
    approximation on the safe side.
    """
    if wired_limit_mb > 0:
        return min(total, wired_limit_mb << 20)
    return total * 2 // 3 if total <= 36 * _GIB else total * 3 // 4


def memory_bandwidth(chip: str, gpu_cores: int | None) -> float | None:
    """Data-sheet bytes per second; the smaller variant where the core count is not known."""
    for least, figure in _BANDWIDTH.get(chip.removeprefix("Apple "), ()):
        if (gpu_cores or 0) >= least:
            return figure * 1e9
    return None


def parse_mac(sysctl: str, vm_stat: str, ioreg: str) -> Mac:
    """Combine the three captured texts."""
    values = parse_sysctl(sysctl)
    chip = values.get("machdep.cpu.brand_string", "unknown")
    total = _number(values.get("hw.memsize", ""))
    gpu_cores = parse_gpu_cores(ioreg)
    silicon = values.get("hw.optional.arm64") == "1"
    notes: tuple[str, ...] = ()
    if values.get("sysctl.proc_translated") == "1":
        notes = ("this Python runs translated (Rosetta): install an arm64 Python to use the GPU",)
    return Mac(
        cpu=_cpu(values, chip, silicon=silicon),
        memory=Memory(total=total, available=min(total, parse_vm_stat(vm_stat))),
        os_version=f"macOS {values.get('kern.osproductversion', '')}".strip(),
        apple=Apple(
            chip=chip,
            gpu_cores=gpu_cores,
            gpu_memory_limit=gpu_memory_limit(
                total, _number(values.get("iogpu.wired_limit_mb", "0"))
            ),
            memory_bandwidth=memory_bandwidth(chip, gpu_cores),
        )
        if silicon
        else None,
        cache_bytes=_number(values.get("hw.perflevel0.l2cachesize", "")) or None,
        in_virtual_machine=values.get("kern.hv_vmm_present") == "1",
        notes=notes,
    )


def read_mac(run: Run | None = None) -> Mac:
    """Run `sysctl`, `vm_stat` and `ioreg` and combine what they print."""
    run = run or run_command
    return parse_mac(
        run(("sysctl", "-a")), run(("vm_stat",)), run(("ioreg", "-rc", "AGXAccelerator", "-d1"))
    )


def run_command(command: tuple[str, ...]) -> str:
    """Run one of the fixed commands; "" where it is missing, fails or hangs."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands, no shell
            command, capture_output=True, text=True, errors="replace", timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _cpu(values: dict[str, str], chip: str, *, silicon: bool) -> Cpu:
    cores = max(1, _number(values.get("hw.logicalcpu", "")) or _number(values.get("hw.ncpu", "")))
    architecture: Architecture = "arm64" if silicon else "x86_64"
    return Cpu(
        model=chip,
        architecture=architecture,
        logical_cores=cores,
        usable_cores=float(cores),
        instruction_sets=_arm_sets(values) if silicon else _x86_sets(values),
        performance_cores=_performance_cores(values),
        physical_cores=_number(values.get("hw.physicalcpu", "")) or None,
    )


def _arm_sets(values: dict[str, str]) -> frozenset[str]:
    present = (
        name
        for feature, name in _ARM_FEATURES.items()
        if values.get(f"hw.optional.arm.{feature}") == "1"
    )
    return frozenset(("neon", *present))


def _x86_sets(values: dict[str, str]) -> frozenset[str]:
    words = " ".join(
        values.get(f"machdep.cpu.{name}", "") for name in ("features", "leaf7_features")
    )
    return frozenset(_X86_FEATURES[word] for word in words.split() if word in _X86_FEATURES)


def _performance_cores(values: dict[str, str]) -> int | None:
    """Cores of every level that is not called "Efficiency" (the M5 Pro has two such levels)."""
    levels = _number(values.get("hw.nperflevels", ""))
    cores = sum(
        _number(values.get(f"hw.perflevel{level}.physicalcpu", ""))
        for level in range(max(1, levels))
        if values.get(f"hw.perflevel{level}.name") != "Efficiency"
    )
    return cores or None


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
