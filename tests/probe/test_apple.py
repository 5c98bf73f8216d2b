import sys

import pytest

from local_worker.probe.apple import (
    gpu_memory_limit,
    memory_bandwidth,
    parse_gpu_cores,
    parse_mac,
    parse_vm_stat,
    read_mac,
    run_command,
)
from local_worker.probe.hardware import Apple

GIB = 1 << 30

M4_MAX = """\
kern.osproductversion: 15.5
kern.hv_vmm_present: 0
hw.ncpu: 16
hw.physicalcpu: 16
hw.logicalcpu: 16
hw.memsize: 137438953472
hw.nperflevels: 2
hw.perflevel0.physicalcpu: 12
hw.perflevel0.l2cachesize: 16777216
hw.perflevel0.name: Performance
hw.perflevel1.physicalcpu: 4
hw.perflevel1.name: Efficiency
hw.optional.arm64: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_FP16: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_SME: 1
machdep.cpu.brand_string: Apple M4 Max
iogpu.wired_limit_mb: 0
sysctl.proc_translated: 0
"""

M1_8GB = """\
kern.osproductversion: 14.6
hw.physicalcpu: 8
hw.logicalcpu: 8
hw.memsize: 8589934592
hw.nperflevels: 2
hw.perflevel0.physicalcpu: 4
hw.perflevel0.name: Performance
hw.perflevel1.physicalcpu: 4
hw.perflevel1.name: Efficiency
hw.optional.arm64: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 0
machdep.cpu.brand_string: Apple M1
"""

INTEL = """\
kern.osproductversion: 13.6
hw.physicalcpu: 6
hw.logicalcpu: 12
hw.memsize: 17179869184
machdep.cpu.brand_string: Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz
machdep.cpu.features: FPU SSE2 SSSE3 FMA AVX1.0 F16C
machdep.cpu.leaf7_features: BMI1 AVX2 BMI2
"""

VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              100000.
Pages active:                            900000.
Pages inactive:                          250000.
Pages speculative:                        40000.
Pages throttled:                              0.
Pages wired down:                        200000.
Pages purgeable:                          10000.
"""

IOREG = """\
+-o AGXAcceleratorG16X  <class AGXAcceleratorG16X, id 0x1000004c5, registered, matched>
    {
      "gpu-core-count" = 40
      "model" = "Apple M4 Max"
    }
"""


def test_m4_max() -> None:
    mac = parse_mac(M4_MAX, VM_STAT, IOREG)
    assert mac.apple == Apple("Apple M4 Max", 40, 96 * GIB, 546e9)
    assert (mac.cpu.logical_cores, mac.cpu.usable_cores) == (16, 16.0)
    assert (mac.cpu.performance_cores, mac.cpu.physical_cores) == (12, 16)
    assert mac.cpu.architecture == "arm64"
    assert mac.cpu.instruction_sets == {"neon", "dotprod", "fp16", "i8mm", "bf16", "sme"}
    assert mac.memory.total == 128 * GIB
    assert mac.memory.available == 400000 * 16384
    assert mac.os_version == "macOS 15.5"
    assert mac.cache_bytes == 16 << 20
    assert not mac.in_virtual_machine
    assert mac.notes == ()


def test_an_8_gb_mac() -> None:
    mac = parse_mac(M1_8GB, VM_STAT, "")
    assert mac.apple == Apple("Apple M1", None, 8 * GIB * 2 // 3, 68.25e9)
    assert mac.cpu.instruction_sets == {"neon", "dotprod"}
    assert mac.cpu.performance_cores == 4


def test_an_intel_mac_has_no_apple_gpu() -> None:
    mac = parse_mac(INTEL, "", "")
    assert mac.apple is None
    assert mac.cpu.architecture == "x86_64"
    assert mac.cpu.instruction_sets == {"avx", "avx2", "f16c", "fma", "bmi2"}
    assert (mac.cpu.physical_cores, mac.cpu.performance_cores) == (6, None)


def test_a_translated_python_is_noted() -> None:
    mac = parse_mac(M1_8GB + "sysctl.proc_translated: 1\n", VM_STAT, "")
    assert mac.notes == (
        "this Python runs translated (Rosetta): install an arm64 Python to use the GPU",
    )


def test_a_chip_with_two_fast_levels_counts_both() -> None:
    text = M4_MAX.replace("perflevel1.name: Efficiency", "perflevel1.name: Standard")
    assert parse_mac(text, VM_STAT, IOREG).cpu.performance_cores == 16


def test_nothing_to_read() -> None:
    mac = parse_mac("", "", "")
    assert mac.apple is None
    assert mac.memory.total == 0
    assert mac.cpu.logical_cores == 1


@pytest.mark.parametrize(
    ("total", "wired_mb", "limit"),
    [
        (16 * GIB, 0, 16 * GIB * 2 // 3),
        (36 * GIB, 0, 24 * GIB),
        (64 * GIB, 0, 48 * GIB),
        (64 * GIB, 57344, 56 * GIB),
        (64 * GIB, 999999, 64 * GIB),
    ],
)
def test_what_metal_may_wire(total: int, wired_mb: int, limit: int) -> None:
    assert gpu_memory_limit(total, wired_mb) == limit


@pytest.mark.parametrize(
    ("chip", "cores", "bandwidth"),
    [
        ("Apple M4 Max", 32, 410e9),
        ("Apple M4 Max", None, 410e9),
        ("Apple M3 Max", 40, 400e9),
        ("Apple M2 Ultra", 76, 800e9),
        ("Apple M9", 10, None),
    ],
)
def test_bandwidth_by_chip(chip: str, cores: int | None, bandwidth: float | None) -> None:
    assert memory_bandwidth(chip, cores) == bandwidth


def test_small_parsers_without_their_lines() -> None:
    assert parse_gpu_cores("no such device") is None
    assert parse_vm_stat("") == 0


def test_read_mac_runs_three_commands() -> None:
    outputs = {"sysctl": M4_MAX, "vm_stat": VM_STAT, "ioreg": IOREG}
    mac = read_mac(lambda command: outputs[command[0]])
    assert mac.apple is not None
    assert mac.apple.gpu_cores == 40


def test_a_command_that_is_missing_prints_nothing() -> None:
    assert run_command(("/nowhere/sysctl", "-a")) == ""
    assert run_command((sys.executable, "-c", "print('hw.ncpu: 2')")) == "hw.ncpu: 2\n"
