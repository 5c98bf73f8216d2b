"""The probe's answer: lines for a person, or a dict for `--json`. Computes nothing new."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from local_worker.probe.backend import explain_threads, threads_for

if TYPE_CHECKING:
    from local_worker.probe.backend import BackendChoice
    from local_worker.probe.hardware import Cpu, Gpu, Hardware, Memory, Software

_BACKENDS = {"vllm": "vLLM", "llama_cpp": "llama.cpp"}
_DEVICES = {"cuda": "NVIDIA (CUDA)", "metal": "Apple GPU (Metal)", "cpu": "processor"}
_LABEL_WIDTH = 11


def render_text(hardware: Hardware, choice: BackendChoice) -> str:
    """The report as aligned text, several lines, no trailing newline."""
    lines = [
        ("System", _system(hardware)),
        ("Processor", _processor(hardware.cpu)),
        ("", _instruction_sets(hardware.cpu)),
        ("Memory", _memory(hardware.memory)),
        *_gpu_lines(hardware, choice),
        ("Backend", f"{_BACKENDS[choice.backend]} on {_DEVICES[choice.device]}"),
        *(("  because", reason) for reason in choice.reasons),
        *(("  missing", item) for item in choice.missing),
        ("Threads", f"{threads_for(hardware.cpu)}: {explain_threads(hardware.cpu)}"),
        *(("Note", note) for note in hardware.notes),
    ]
    return "\n".join(f"{label:<{_LABEL_WIDTH}}{text}" for label, text in lines if text)


def to_json(hardware: Hardware, software: Software, choice: BackendChoice) -> dict[str, Any]:
    """The report as a dict of plain JSON types; sizes in bytes, bandwidths in bytes per second."""
    facts = {"hardware": asdict(hardware), "software": asdict(software), "choice": asdict(choice)}
    plain = {name: _plain(value) for name, value in facts.items()}
    plain["hardware"]["memory"]["usable"] = hardware.memory.usable
    plain["threads"] = threads_for(hardware.cpu)
    return plain


def _system(hardware: Hardware) -> str:
    parts = [hardware.os_version]
    if hardware.in_container:
        parts.append("in a container")
    if hardware.in_virtual_machine:
        parts.append("in a virtual machine")
    return ", ".join(parts)


def _processor(cpu: Cpu) -> str:
    text = f"{cpu.model} ({cpu.architecture}), {cpu.usable_cores:g} of {cpu.logical_cores} "
    text += "logical cores usable"
    if cpu.performance_cores is not None:
        text += f", {cpu.performance_cores} of them performance cores"
    return text


def _instruction_sets(cpu: Cpu) -> str:
    return " ".join(sorted(cpu.instruction_sets)) or "no vector instruction set recognised"


def _memory(memory: Memory) -> str:
    text = f"{_gib(memory.total)}, {_gib(memory.usable)} can be taken now"
    if memory.limit is not None:
        text += f", limited to {_gib(memory.limit)} by the control group"
    if memory.read_bandwidth is not None:
        text += f", read at {_gigabytes(memory.read_bandwidth)}"
    return text


def _gpu_lines(hardware: Hardware, choice: BackendChoice) -> list[tuple[str, str]]:
    lines = [(f"GPU {gpu.index}", _gpu(gpu)) for gpu in hardware.nvidia.gpus]
    for gpu in hardware.nvidia.gpus:
        lines += [("  slice", label) for label in gpu.mig_slices]
    if hardware.nvidia.driver:
        driver = f"NVIDIA {hardware.nvidia.driver}"
        cuda = hardware.nvidia.cuda_version
        lines.append(("Driver", f"{driver}, up to CUDA {cuda}" if cuda else driver))
    if hardware.apple is not None:
        cores = f"{hardware.apple.gpu_cores} cores, " if hardware.apple.gpu_cores else ""
        text = f"{hardware.apple.chip}, {cores}about {_gib(hardware.apple.gpu_memory_limit)} "
        text += "of the memory for the GPU"
        lines.append(("GPU", text + _at(hardware.apple.memory_bandwidth)))
    problem = hardware.nvidia.problem
    lines = lines or [("GPU", "none that can be used" if problem else "none found")]
    if problem and problem not in choice.missing:
        lines.append(("Problem", problem))
    return lines


def _gpu(gpu: Gpu) -> str:
    major, minor = gpu.compute_capability
    text = f"{gpu.name}, "
    if gpu.unified_memory:
        text += "unified memory (see Memory)"
    elif gpu.memory_total is not None:
        text += f"{_gib(gpu.memory_free or 0)} free of {_gib(gpu.memory_total)}"
    if gpu.mig_enabled:
        text += " in one MIG slice"
    text += f", compute capability {major}.{minor}"
    if gpu.power_limit_watts is not None:
        text += f", {gpu.power_limit_watts:g} W"
    return text + _at(gpu.memory_bandwidth)


def _at(bandwidth: float | None) -> str:
    return "" if bandwidth is None else f", {_gigabytes(bandwidth)}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _gigabytes(bandwidth: float) -> str:
    return f"{bandwidth / 1e9:.0f} GB/s"


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON in, JSON out
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value
