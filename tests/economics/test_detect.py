from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from local_worker.economics.detect import WATTS_BESIDE, WATTS_PER_CORE, find_source
from local_worker.economics.energy import Reading
from local_worker.errors import ConfigError
from local_worker.probe.hardware import Cpu, Gpu, Hardware, Memory, Nvidia

PLAIN = Hardware("linux", "", Cpu("c", "x86_64", 4, 4.0), Memory(1 << 34, 1 << 34))
CARDS = tuple(
    Gpu(i, "H200", (9, 0), 1 << 37, 1 << 37, f"GPU-{i}", power_limit_watts=700.0) for i in range(2)
)
WITH_CARDS = replace(PLAIN, nvidia=Nvidia(CARDS))


class NvmlError(Exception):
    pass


@dataclass
class Cards:
    """Stands in for `pynvml`."""

    millijoules: dict[int, int | None]
    NVMLError = NvmlError
    open = 0

    def nvmlInit(self):  # noqa: N802
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        found = self.millijoules[handle]
        if found is None:
            raise NvmlError("not supported")
        return found


def found(wish="auto", hardware=PLAIN, *, gpu=False, powercap=None, nvml=None):
    return find_source(wish, hardware, gpu=gpu, powercap=powercap, load=lambda: nvml)


@pytest.fixture
def powercap(tmp_path):
    for folder, name in (
        ("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "psys"), ("intel-rapl-mmio:0", "package-0"),
    ):  # fmt: skip
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "name").write_text(name)
        (tmp_path / folder / "energy_uj").write_text("1000000")
    return tmp_path


def test_packages_and_memory_are_counted_and_nothing_twice(powercap):
    source = found(powercap=powercap).source
    assert source.label == "RAPL (package-0 and dram)"
    assert source.read(0.0, 0.0) == Reading(0.0, (1.0, 1.0))


def test_without_any_counter_it_is_an_estimate_that_says_so(tmp_path):
    source = found(powercap=tmp_path).source
    watts = WATTS_BESIDE + 4 * WATTS_PER_CORE
    assert source.label == f"estimated from {watts:g} W ({WATTS_BESIDE:g} W idle)"
    assert not source.measures


def test_counters_that_only_root_may_read_are_named(powercap, monkeypatch):
    read_text = Path.read_text

    def as_a_user(path, *arguments):
        if path.name == "energy_uj":
            raise PermissionError
        return read_text(path, *arguments)

    monkeypatch.setattr(Path, "read_text", as_a_user)
    result = found(powercap=powercap)
    assert not result.source.measures
    assert "readable by root only" in result.note


def test_cards_and_packages_are_measured_together(powercap):
    nvml = Cards({0: 5000, 1: 7000})
    source = found(hardware=WITH_CARDS, gpu=True, powercap=powercap, nvml=nvml).source
    assert source.read(0.0, 0.0).joules == (5.0, 7.0, 1.0, 1.0)
    assert source.label == "NVML (2 GPUs) + RAPL (package-0 and dram)"
    source.close()
    assert nvml.open == 0


def test_a_card_that_is_lost_says_nothing(tmp_path):
    nvml = Cards({0: 5000, 1: 7000})
    source = found(hardware=WITH_CARDS, gpu=True, powercap=tmp_path, nvml=nvml).source
    nvml.millijoules[1] = None
    assert source.read(1.0, 0.0) == Reading(1.0, None)


def test_a_card_without_a_counter_is_estimated_by_its_limit(tmp_path):
    nvml = Cards({0: 5000, 1: None})
    result = found(hardware=WITH_CARDS, gpu=True, powercap=tmp_path, nvml=nvml)
    assert result.source.label.startswith(f"estimated from {WATTS_BESIDE + 1400:g} W")
    assert nvml.open == 0


def test_cards_that_compute_nothing_are_not_counted(powercap):
    nvml = Cards({0: 5000, 1: 7000})
    source = found(hardware=WITH_CARDS, gpu=False, powercap=powercap, nvml=nvml).source
    assert source.label == "RAPL (package-0 and dram)"


@pytest.mark.parametrize(
    ("wish", "label"),
    [
        ("120", "estimated from 120 W"),
        ("120,35.5", "estimated from 120 W (35.5 W idle)"),
        ("0", "estimated from 0 W"),
    ],
)
def test_the_users_own_wattage_is_an_estimate_too(wish, label):
    source = found(wish).source
    assert source.label == label
    assert not source.measures


def test_a_command_is_a_meter():
    source = found("command:echo 33").source
    try:
        assert source.measures
        assert "echo 33" in source.label
    finally:
        source.close()


@pytest.mark.parametrize(
    "wish",
    ["much", "-1", "nan", "inf", "10,20", "10,-1", "10,5,1", "", "command:", "command:echo none",
     "command:false", "command:'"],
)  # fmt: skip
def test_nonsense_is_refused(wish):
    with pytest.raises(ConfigError, match="--power"):
        found(wish)
