"""What a machine has, as frozen facts. `host`, `nvidia` and `apple` read the machine, not this.

Absence is a fact: a field that could not be read is None and, where it matters, `notes` says why.
All sizes are bytes, all bandwidths bytes per second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OperatingSystem = Literal["linux", "darwin", "other"]
Architecture = Literal["x86_64", "arm64", "other"]


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor, and how much of it this process may use.

    Attributes:
        model: the vendor's name for it.
        architecture: instruction set family.
        logical_cores: what the machine has.
        usable_cores: what affinity and the cgroup quota leave (a quota of 1.5 gives 1.5).
        instruction_sets: those that change llama.cpp's kernels, e.g. `avx2`, `avx512f`,
            `avx512_vnni`, `amx_int8`, `neon`, `dotprod`, `i8mm`, `sve`.
        performance_cores: on Apple silicon and hybrid chips; None where not known.
        physical_cores: of those in the affinity mask, SMT siblings counted once; None where not
            known.
    """

    model: str
    architecture: Architecture
    logical_cores: int
    usable_cores: float
    instruction_sets: frozenset[str] = frozenset()
    performance_cores: int | None = None
    physical_cores: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory. `limit` is the cgroup's, None where there is none.

    `read_bandwidth` is measured (see `probe.bandwidth`), None where skipped.
    """

    total: int
    available: int
    limit: int | None = None
    read_bandwidth: float | None = None

    @property
    def usable(self) -> int:
        """Bytes that may be taken now: what is available, within the limit."""
        return self.available if self.limit is None else min(self.available, self.limit)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA device.

    `memory_total` is None where NVML gives no figure (GB10 / Spark: unified memory). With MIG on,
    a process gets one slice: the memory figures, `uuid` and `memory_bandwidth` are then that
    slice's, and `mig_slices` lists them all (empty: nothing can run on the device).
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_total: int | None
    memory_free: int | None
    uuid: str = ""
    mig_enabled: bool = False
    mig_slices: tuple[str, ...] = ()
    power_limit_watts: float | None = None
    unified_memory: bool = False
    memory_bandwidth: float | None = None


@dataclass(frozen=True, slots=True)
class Nvidia:
    """What NVML said. `problem` is set when there is a driver or library trouble."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda_version: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Apple:
    """An Apple-silicon machine. `gpu_memory_limit` is what Metal may wire."""

    chip: str
    gpu_cores: int | None
    gpu_memory_limit: int
    memory_bandwidth: float | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """Everything the planner needs to know about one machine."""

    os: OperatingSystem
    os_version: str
    cpu: Cpu
    memory: Memory
    nvidia: Nvidia = Nvidia()
    apple: Apple | None = None
    in_container: bool = False
    in_virtual_machine: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Software:
    """Which engines are installed: their versions, or None.

    A version of vLLM that ends in "+cpu" is its CPU build, which uses no GPU.
    """

    llama_cpp: str | None = None
    llama_cpp_gpu: bool = False
    vllm: str | None = None
