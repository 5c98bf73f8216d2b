from pathlib import Path

import pytest

from local_worker.probe.cgroup import CgroupLimits
from local_worker.probe.host import (
    has_nvidia_device,
    make_cpu,
    make_memory,
    parse_allowed,
    parse_cpu_list,
    parse_cpuinfo,
    parse_meminfo,
    parse_size,
    read_host,
)

GIB = 1 << 30

# Two cores with two threads each, cut down to the lines that matter.
XEON = "\n".join(
    f"""\
processor\t: {number}
vendor_id\t: GenuineIntel
cpu family\t: 6
model name\t: Intel(R) Xeon(R) Platinum 8488C
physical id\t: 0
siblings\t: 4
core id\t\t: {number % 2}
cpu cores\t: 2
flags\t\t: fpu sse2 ht ssse3 fma sse4_2 avx f16c hypervisor bmi2 avx2 avx512f avx512dq avx512bw \
avx512vl avx512vbmi avx_vnni avx512_bf16 avx512_vnni amx_bf16 amx_tile amx_int8
bogomips\t: 4800.00
"""
    for number in range(4)
)

GRAVITON2 = "\n".join(
    f"""\
processor\t: {number}
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc \
dcpop asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1
"""
    for number in range(4)
)

# A Spark: cores 0-1 and 4-5 small, 2-3 and 6-7 big (ten of each in the real one).
GB10 = "\n".join(
    f"""\
processor\t: {number}
BogoMIPS\t: 2000.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt \
fcma lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm sb paca pacg \
dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svebf16 i8mm bf16 dgh
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 1
"""
    for number, part in enumerate(["0xd87", "0xd87", "0xd85", "0xd85"] * 2)
)

MEMINFO = """\
MemTotal:       65536000 kB
MemFree:         1048576 kB
MemAvailable:   32768000 kB
Buffers:          524288 kB
Cached:         20971520 kB
HugePages_Total:       0
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_cpuinfo_of_x86() -> None:
    info = parse_cpuinfo(XEON)
    assert info.model == "Intel(R) Xeon(R) Platinum 8488C"
    assert info.architecture == "x86_64"
    assert info.processors == (0, 1, 2, 3)
    assert info.virtual
    cpu = make_cpu(info, frozenset(), None)
    assert (cpu.logical_cores, cpu.usable_cores, cpu.physical_cores) == (4, 4.0, 2)
    assert cpu.performance_cores is None
    assert cpu.instruction_sets == {
        "ssse3",
        "avx",
        "f16c",
        "fma",
        "bmi2",
        "avx2",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vbmi",
        "avx512_vnni",
        "avx512_bf16",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
    }


def test_cpuinfo_of_an_arm_server() -> None:
    info = parse_cpuinfo(GRAVITON2)
    cpu = make_cpu(info, frozenset({0, 1, 2, 3}), None)
    assert cpu.model == "Neoverse-N1"
    assert cpu.architecture == "arm64"
    assert cpu.logical_cores == 4
    assert cpu.instruction_sets == {"neon", "dotprod", "fp16"}
    assert cpu.physical_cores is None
    assert cpu.performance_cores is None
    assert not info.virtual


def test_cpuinfo_of_a_spark_has_two_kinds_of_cores() -> None:
    cpu = make_cpu(parse_cpuinfo(GB10), frozenset(range(8)), None)
    assert cpu.model == "Cortex-X925+Cortex-A725"
    assert cpu.performance_cores == 4
    assert {"sve2", "i8mm", "bf16", "dotprod"} <= cpu.instruction_sets


def test_an_unknown_arm_part_is_named_by_its_numbers() -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x51\nCPU part\t: 0x001\n"
    assert parse_cpuinfo(text).model == "0x51 0x001"


def test_an_empty_cpuinfo_is_one_unknown_core() -> None:
    cpu = make_cpu(parse_cpuinfo(""), frozenset(), None)
    assert (cpu.model, cpu.architecture) == ("unknown", "other")
    assert (cpu.logical_cores, cpu.usable_cores) == (1, 1.0)
    assert cpu.instruction_sets == frozenset()


@pytest.mark.parametrize(
    ("allowed", "quota", "usable", "physical"),
    [
        ({0, 1, 2, 3}, None, 4.0, 2),
        ({0, 2}, None, 2.0, 1),
        ({0, 1, 2, 3}, 1.5, 1.5, 2),
        ({0}, 2.0, 1.0, 1),
        ({0, 64}, None, 1.0, 1),
    ],
)
def test_affinity_and_quota_limit_the_cores(
    allowed: set[int], quota: float | None, usable: float, physical: int
) -> None:
    cpu = make_cpu(parse_cpuinfo(XEON), allowed, quota)
    assert (cpu.usable_cores, cpu.physical_cores, cpu.logical_cores) == (usable, physical, 4)


def test_meminfo() -> None:
    assert parse_meminfo(MEMINFO) == (65536000 * 1024, 32768000 * 1024)


def test_meminfo_of_an_old_kernel_is_estimated() -> None:
    old = "MemTotal: 4096 kB\nMemFree: 1024 kB\nBuffers: 512 kB\nCached: 512 kB\n"
    assert parse_meminfo(old) == (4096 * 1024, 2048 * 1024)


def test_meminfo_that_is_missing() -> None:
    assert parse_meminfo("") == (0, 0)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}), ("5", {5}), ("", set()), ("\n", set())],
)
def test_cpu_list(text: str, numbers: set[int]) -> None:
    assert parse_cpu_list(text) == numbers


def test_allowed_list_of_the_process() -> None:
    assert parse_allowed("Name:\tpython\nCpus_allowed:\t6\nCpus_allowed_list:\t1-2\n") == {1, 2}
    assert parse_allowed("Name:\tpython\n") == frozenset()


@pytest.mark.parametrize(
    ("text", "size"), [("32768K\n", 32 << 20), ("32M", 32 << 20), ("512", 512), ("", 0), ("x", 0)]
)
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_memory_limits() -> None:
    free = make_memory(64 * GIB, 40 * GIB, CgroupLimits())
    assert (free.available, free.limit, free.usable) == (40 * GIB, None, 40 * GIB)
    tight = make_memory(64 * GIB, 40 * GIB, CgroupLimits(None, 8 * GIB, 5 * GIB))
    assert (tight.available, tight.limit, tight.usable) == (5 * GIB, 8 * GIB, 5 * GIB)
    generous = make_memory(64 * GIB, 40 * GIB, CgroupLimits(None, 128 * GIB, 100 * GIB))
    assert (generous.available, generous.limit) == (40 * GIB, None)


def test_a_container_with_quotas(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            ".dockerenv": "",
            "etc/os-release": 'ID=ubuntu\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n',
            "proc/cpuinfo": XEON,
            "proc/meminfo": MEMINFO,
            "proc/self/status": "Cpus_allowed_list:\t0-3\n",
            "proc/self/cgroup": "0::/\n",
            "proc/sys/kernel/osrelease": "6.8.0-45-generic\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory.stat": f"inactive_file {GIB}\nactive_file 0\n",
            "sys/devices/system/cpu/cpu0/cache/index0/size": "48K\n",
            "sys/devices/system/cpu/cpu0/cache/index3/size": "107520K\n",
        },
    )
    host = read_host(root)
    assert host.cpu.usable_cores == 1.5
    assert (host.memory.limit, host.memory.available) == (4 * GIB, 2 * GIB)
    assert host.os_version == "Ubuntu 24.04.1 LTS, kernel 6.8.0-45-generic"
    assert host.in_container
    assert host.in_virtual_machine
    assert host.cache_bytes == 105 << 20


def test_a_plain_arm_machine(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/cpuinfo": GRAVITON2, "proc/meminfo": MEMINFO})
    host = read_host(root)
    assert not host.in_container
    assert not host.in_virtual_machine
    assert host.cache_bytes is None
    assert host.os_version == "Linux"
    assert host.cpu.usable_cores == 4.0


@pytest.mark.parametrize(
    ("name", "text", "virtual"),
    [
        ("sys/class/dmi/id/product_name", "KVM Virtual Machine\n", True),
        ("sys/class/dmi/id/sys_vendor", "QEMU\n", True),
        ("sys/class/dmi/id/sys_vendor", "Amazon EC2\n", True),
        ("sys/class/dmi/id/product_name", "NVIDIA DGX Spark\n", False),
        ("proc/device-tree/hypervisor/compatible", "linux,kvm\0", True),
        ("proc/sys/kernel/osrelease", "6.10.14-linuxkit\n", True),
        ("proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2\n", True),
    ],
)
def test_arm_machines_that_are_virtual(
    tmp_path: Path, name: str, text: str, *, virtual: bool
) -> None:
    root = write(tmp_path, {"proc/cpuinfo": GRAVITON2, name: text})
    assert read_host(root).in_virtual_machine is virtual


def test_a_cloud_machine_without_a_hypervisor(tmp_path: Path) -> None:
    files = {
        "sys/class/dmi/id/sys_vendor": "Amazon EC2\n",
        "sys/class/dmi/id/product_name": "m7g.metal\n",
    }
    assert not read_host(write(tmp_path, files)).in_virtual_machine


def test_a_hybrid_intel_chip_counts_its_big_physical_cores(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/cpuinfo": XEON, "sys/devices/cpu_core/cpus": "0,2\n"})
    # 0 and 2 are the two threads of one core.
    assert read_host(root).cpu.performance_cores == 1


def test_a_kubernetes_group_is_a_container(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "4:memory:/kubepods/burstable/pod7/c1\n"}
    assert read_host(write(tmp_path, files)).in_container


def test_nvidia_on_the_bus(tmp_path: Path) -> None:
    assert not has_nvidia_device(tmp_path)
    write(
        tmp_path,
        {
            "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",  # its sound function
        },
    )
    assert not has_nvidia_device(tmp_path)
    write(
        tmp_path,
        {
            "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
        },
    )
    assert has_nvidia_device(tmp_path)
