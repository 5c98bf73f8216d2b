"""Which power source this machine has: what the user says, else counters, else a wattage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.economics.sources import (
    COMMAND_SECONDS,
    NvidiaCounters,
    Rapl,
    Sampled,
    Together,
    Wattage,
    asking,
    powermetrics_watts,
)
from local_worker.errors import ConfigError
from local_worker.probe.nvml import load_nvml

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_worker.economics.sources import PowerSource
    from local_worker.probe.hardware import Hardware
    from local_worker.probe.nvml import Nvml

POWERCAP = Path("/sys/class/powercap")

WATTS_PER_CORE = 8.0
WATTS_BESIDE = 15.0
"""A rule of thumb where nothing can be measured: between a server's cores (about 4 W each) and a
desktop's (about 15 W), and what a board takes beside its processor."""

IDLE_SHARE = 0.1
"""Of its power limit, that a card takes while it does nothing: 70 W of an H200's 700."""

AUTO = "auto"
COMMAND = "command:"


@dataclass(frozen=True, slots=True)
class Found:
    """A source, and what the user should know about it."""

    source: PowerSource
    note: str | None = None


def find_source(
    wish: str,
    hardware: Hardware,
    *,
    gpu: bool,
    powercap: Path = POWERCAP,
    load: Callable[[], Nvml | None] = load_nvml,
) -> Found:
    """The power source to use.

    Args:
        wish: `auto`, watts as `N` or `N,IDLE`, or `command:LINE` that prints watts.
        hardware: of this machine.
        gpu: whether the model is computed on its GPUs.
        powercap: Linux' tree of counters.
        load: gives the NVML module.

    Raises:
        ConfigError: the wish is none of these, or the command says nothing.
    """
    if wish == AUTO:
        return _measured(hardware, gpu=gpu, powercap=powercap, load=load)
    if wish.startswith(COMMAND):
        return _command(wish.removeprefix(COMMAND).strip())
    watts, idle = _watts(wish)
    return Found(Wattage(watts, idle, _estimate(watts, idle)))


def _measured(
    hardware: Hardware, *, gpu: bool, powercap: Path, load: Callable[[], Nvml | None]
) -> Found:
    if hardware.os == "darwin":
        if powermetrics_watts() is not None:
            return Found(Sampled(powermetrics_watts, 1.0, "powermetrics (CPU, GPU, ANE)"))
        return Found(_rule_of_thumb(hardware, gpu=False), "powermetrics wants root (sudo)")
    cards = _cards(hardware, load) if gpu else None
    zones, locked = _zones(powercap)
    packages = Rapl(zones) if zones else None
    note = None
    if locked:
        note = f"{powercap}/intel-rapl:*/energy_uj is readable by root only (chmod a+r)"
    if gpu and cards is None:
        return Found(_rule_of_thumb(hardware, gpu=True), "NVML has no energy counter")
    if cards is not None:
        return Found(Together([cards, packages]) if packages else cards, note)
    if packages is not None:
        return Found(packages)
    return Found(_rule_of_thumb(hardware, gpu=False), note)


def _cards(hardware: Hardware, load: Callable[[], Nvml | None]) -> NvidiaCounters | None:
    """The counters of all cards; None where one of them has none."""
    nvml = load()
    if nvml is None:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        indices = sorted({card.index for card in hardware.nvidia.gpus})
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in indices]
        for handle in handles:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:
        nvml.nvmlShutdown()
        return None
    return NvidiaCounters(nvml, handles)


def _zones(powercap: Path) -> tuple[list[Path], bool]:
    """Counters of packages and memory, and whether any is there that we may not read."""
    found: list[Path] = []
    locked = False
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if name.startswith("package") or name == "dram":
                int((zone / "energy_uj").read_text())
                found.append(zone)
        except PermissionError:
            locked = True
        except (OSError, ValueError):
            continue
    return ([] if locked else found), locked


def _rule_of_thumb(hardware: Hardware, *, gpu: bool) -> Wattage:
    watts, idle = WATTS_BESIDE + WATTS_PER_CORE * hardware.cpu.usable_cores, WATTS_BESIDE
    if gpu:
        limits = sum(card.power_limit_watts or 0.0 for card in hardware.nvidia.gpus)
        watts, idle = WATTS_BESIDE + limits, WATTS_BESIDE + IDLE_SHARE * limits
    return Wattage(watts, idle, _estimate(watts, idle))


def _estimate(watts: float, idle: float | None) -> str:
    return f"estimated from {watts:g} W" + ("" if idle is None else f" ({idle:g} W idle)")


def _command(line: str) -> Found:
    try:
        ask = asking(line)
    except ValueError as error:  # a quotation mark without its other
        raise ConfigError(f"--power command:{line}: {error}") from None
    if not line or ask() is None:
        raise ConfigError(
            f"--power command:{line} does not print a number of watts, and nothing else, within "
            f"{COMMAND_SECONDS:g} seconds"
        )
    return Found(Sampled(ask, COMMAND_SECONDS, f"watts of `{line}`"))


def _watts(wish: str) -> tuple[float, float | None]:
    try:
        watts, *rest = (float(part) for part in wish.split(","))
    except ValueError:
        watts, rest = math.nan, []
    idle = rest[0] if rest else None
    if len(rest) > 1 or not 0 <= watts < math.inf or not 0 <= (idle or 0.0) <= watts:
        raise ConfigError(
            f"--power {wish!r} is none of: auto, watts (120), watts while computing and idling "
            "(120,35), or command:LINE that prints watts"
        )
    return watts, idle
