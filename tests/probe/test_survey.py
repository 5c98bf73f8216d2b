import json
from pathlib import Path

import pytest

from local_worker.probe import survey
from local_worker.probe.apple import parse_mac
from local_worker.probe.bandwidth import Reading
from local_worker.probe.survey import bandwidth_key, probe_hardware

CPUINFO = """\
processor\t: 0
model name\t: AMD EPYC 9554
physical id\t: 0
core id\t: 0
flags\t: sse2 avx2 hypervisor

processor\t: 1
model name\t: AMD EPYC 9554
physical id\t: 0
core id\t: 1
flags\t: sse2 avx2 hypervisor
"""

KEY = "AMD EPYC 9554, 2 cores, 24 GiB"


def machine(root: Path) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(CPUINFO)
    (root / "proc/meminfo").write_text("MemTotal: 24684092 kB\nMemAvailable: 16000000 kB\n")
    return root


def test_linux_without_a_gpu(tmp_path: Path) -> None:
    hardware = probe_hardware(
        measure_bandwidth=False,
        root=machine(tmp_path),
        environ={},
        system="Linux",
        load=lambda: None,
    )
    assert hardware.os == "linux"
    assert hardware.cpu.model == "AMD EPYC 9554"
    assert hardware.cpu.usable_cores == 2.0
    assert hardware.memory.available == 16000000 * 1024
    assert hardware.memory.read_bandwidth is None
    assert hardware.nvidia.gpus == ()
    assert hardware.nvidia.problem is None
    assert hardware.in_virtual_machine
    assert hardware.notes == ()


def test_a_gpu_on_the_bus_without_the_package(tmp_path: Path) -> None:
    device = machine(tmp_path) / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")
    hardware = probe_hardware(
        measure_bandwidth=False, root=tmp_path, environ={}, system="Linux", load=lambda: None
    )
    assert "pip install nvidia-ml-py" in (hardware.nvidia.problem or "")


def test_bandwidth_comes_from_the_cache_with_its_date(tmp_path: Path) -> None:
    kept = tmp_path / "local-worker" / "bandwidth.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps({KEY: {"bytes_per_second": 31e9, "date": "2026-11-20"}}))
    hardware = probe_hardware(
        root=machine(tmp_path),
        environ={"XDG_CACHE_HOME": str(tmp_path)},
        system="Linux",
        load=lambda: None,
    )
    assert bandwidth_key(hardware) == KEY
    assert hardware.memory.read_bandwidth == 31e9
    assert hardware.notes == (
        f"memory bandwidth was measured on 2026-11-20; delete {kept} to redo it",
    )


@pytest.mark.parametrize(
    ("reading", "bandwidth", "note"),
    [
        (Reading(30e9, "2026-11-22"), 30e9, ()),
        (
            Reading(17e9, "2026-11-22", disturbed=True),
            17e9,
            ("other programs used the processor: the memory bandwidth is a low estimate",),
        ),
        (
            None,
            None,
            ("memory bandwidth could not be measured: too little memory is free",),
        ),
    ],
)
def test_bandwidth_that_is_measured_now(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reading: Reading | None,
    bandwidth: float | None,
    note: tuple[str, ...],
) -> None:
    monkeypatch.setattr(survey, "read_bandwidth", lambda *args: reading)
    hardware = probe_hardware(root=machine(tmp_path), environ={}, system="Linux", load=lambda: None)
    assert hardware.memory.read_bandwidth == bandwidth
    assert hardware.notes == note


def test_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    sysctl = (
        "machdep.cpu.brand_string: Apple M4\nhw.optional.arm64: 1\nhw.memsize: 17179869184\n"
        "kern.hv_vmm_present: 1\n"
    )
    monkeypatch.setattr(survey, "read_mac", lambda: parse_mac(sysctl, "", ""))
    hardware = probe_hardware(measure_bandwidth=False, environ={}, system="Darwin")
    assert hardware.os == "darwin"
    assert hardware.apple is not None
    assert hardware.apple.memory_bandwidth == 120e9
    assert hardware.in_virtual_machine


def test_another_system_gets_cores_and_memory() -> None:
    hardware = probe_hardware(measure_bandwidth=False, environ={}, system="FreeBSD")
    assert hardware.os == "other"
    assert hardware.memory.total > 0
    assert hardware.cpu.usable_cores >= 1
    assert len(hardware.notes) == 1


def test_this_machine_whatever_it_is() -> None:
    hardware = probe_hardware(measure_bandwidth=False)
    assert 0 < hardware.cpu.usable_cores <= hardware.cpu.logical_cores
    assert 0 < hardware.memory.usable <= hardware.memory.total
