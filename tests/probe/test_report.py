import json

from local_worker.probe.backend import BackendChoice
from local_worker.probe.hardware import Apple, Cpu, Gpu, Hardware, Memory, Nvidia, Software
from local_worker.probe.report import render_text, to_json

GIB = 1 << 30

CPU = Cpu("AMD EPYC", "x86_64", 8, 1.5, frozenset({"avx2", "fma"}))

CONTAINER = Hardware(
    "linux",
    "Debian 12, kernel 6.8",
    CPU,
    Memory(64 * GIB, 3 * GIB, limit=4 * GIB, read_bandwidth=31.4e9),
    in_container=True,
    in_virtual_machine=True,
    notes=("memory bandwidth was measured on 2026-11-20",),
)


def test_a_container_in_text() -> None:
    choice = BackendChoice("llama_cpp", "cpu", ("no GPU",), ("vLLM is not installed",))
    assert (
        render_text(CONTAINER, choice)
        == """\
System     Debian 12, kernel 6.8, in a container, in a virtual machine
Processor  AMD EPYC (x86_64), 1.5 of 8 logical cores usable
           avx2 fma
Memory     64.0 GiB, 3.0 GiB can be taken now, limited to 4.0 GiB by the control group, \
read at 31 GB/s
GPU        none found
Backend    llama.cpp on processor
  because  no GPU
  missing  vLLM is not installed
Threads    1: 1.5 of 8 logical cores may be used
Note       memory bandwidth was measured on 2026-11-20"""
    )


def test_nvidia_in_text() -> None:
    gpus = (
        Gpu(
            0,
            "NVIDIA H100 80GB HBM3",
            (9, 0),
            40 * GIB,
            39 * GIB,
            mig_enabled=True,
            mig_slices=("3g.40gb 40.0 GiB MIG-3",),
            power_limit_watts=700.0,
            memory_bandwidth=1676e9,
        ),
        Gpu(1, "NVIDIA GB10", (12, 1), None, None, unified_memory=True),
    )
    nvidia = Nvidia(gpus, "580.95.05", "13.0", "GPU 2 is lost")
    hardware = Hardware("linux", "Debian 12", CPU, Memory(64 * GIB, 60 * GIB), nvidia)
    text = render_text(hardware, BackendChoice("vllm", "cuda", ()))
    assert text.splitlines()[4:-1] == [
        (
            "GPU 0      NVIDIA H100 80GB HBM3, 39.0 GiB free of 40.0 GiB in one MIG slice, "
            "compute capability 9.0, 700 W, 1676 GB/s"
        ),
        "GPU 1      NVIDIA GB10, unified memory (see Memory), compute capability 12.1",
        "  slice    3g.40gb 40.0 GiB MIG-3",
        "Driver     NVIDIA 580.95.05, up to CUDA 13.0",
        "Problem    GPU 2 is lost",
        "Backend    vLLM on NVIDIA (CUDA)",
    ]


def test_a_problem_is_printed_once() -> None:
    nvidia = Nvidia(problem="driver mismatch: reboot")
    hardware = Hardware("linux", "Debian 12", CPU, Memory(64 * GIB, 60 * GIB), nvidia)
    text = render_text(
        hardware, BackendChoice("llama_cpp", "cpu", (), ("driver mismatch: reboot",))
    )
    assert "GPU        none that can be used\n" in text
    assert text.count("driver mismatch") == 1


def test_a_mac_in_text() -> None:
    hardware = Hardware(
        "darwin",
        "macOS 15.5",
        Cpu("Apple M4 Max", "arm64", 16, 16.0, frozenset(), 12, 16),
        Memory(128 * GIB, 100 * GIB),
        apple=Apple("Apple M4 Max", 40, 96 * GIB, 546e9),
    )
    lines = render_text(hardware, BackendChoice("llama_cpp", "metal", ())).splitlines()
    assert lines[1].endswith("16 of 16 logical cores usable, 12 of them performance cores")
    assert lines[2] == "           no vector instruction set recognised"
    assert lines[4] == (
        "GPU        Apple M4 Max, 40 cores, about 96.0 GiB of the memory for the GPU, 546 GB/s"
    )


def test_json_is_plain_and_complete() -> None:
    choice = BackendChoice("llama_cpp", "cpu", ("no GPU",), ("something",))
    answer = to_json(CONTAINER, Software(llama_cpp="0.3.36"), choice)
    assert json.loads(json.dumps(answer)) == answer
    assert answer["hardware"]["cpu"]["instruction_sets"] == ["avx2", "fma"]
    assert answer["hardware"]["memory"] == {
        "total": 64 * GIB,
        "available": 3 * GIB,
        "limit": 4 * GIB,
        "read_bandwidth": 31.4e9,
        "usable": 3 * GIB,
    }
    assert answer["hardware"]["nvidia"]["gpus"] == []
    assert answer["hardware"]["apple"] is None
    assert answer["software"] == {"llama_cpp": "0.3.36", "llama_cpp_gpu": False, "vllm": None}
    assert answer["choice"] == {
        "backend": "llama_cpp",
        "device": "cpu",
        "reasons": ["no GPU"],
        "missing": ["something"],
    }
    assert answer["threads"] == 1
