from dataclasses import dataclass, field
from typing import TypeVar

import pynvml
import pytest

from local_worker.probe.hardware import Gpu, Nvidia
from local_worker.probe.nvidia import known_bandwidth, read_nvidia
from local_worker.probe.nvml import load_nvml

GIB = 1 << 30

T = TypeVar("T")


@dataclass
class Memory:
    total: int
    free: int


@dataclass
class Board:
    """One scripted device; a value that is an exception is raised."""

    name: str
    capability: tuple[int, int] = (9, 0)
    memory: Memory | Exception = field(default_factory=lambda: Memory(80 * GIB, 79 * GIB))
    uuid: str = "GPU-aaaa-0"
    power: int | Exception = 700_000
    clock: int | Exception = 2619
    width: int | Exception = 5120
    mig: list[int] | Exception = field(
        default_factory=lambda: pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    )
    slices: "dict[int, Board]" = field(default_factory=dict)
    lost: Exception | None = None


class ScriptedNvml:
    """Stands in for the `pynvml` module, with its own error classes."""

    NVMLError: type[Exception] = pynvml.NVMLError

    def __init__(self, *boards: Board, cuda: int = 13020, init: int | None = None) -> None:
        self.boards = boards
        self.cuda = cuda
        self.init = init
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init is not None:
            raise pynvml.NVMLError(self.init)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.95.05"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        board = self.boards[index]
        if board.lost:
            raise board.lost
        return board

    def nvmlDeviceGetName(self, handle: object) -> str:  # noqa: N802
        return board_of(handle).name

    def nvmlDeviceGetUUID(self, handle: object) -> str:  # noqa: N802
        return board_of(handle).uuid

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Memory:  # noqa: N802
        return value_of(board_of(handle).memory)

    def nvmlDeviceGetCudaComputeCapability(self, handle: object) -> tuple[int, int]:  # noqa: N802
        return board_of(handle).capability

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: object) -> int:  # noqa: N802
        return value_of(board_of(handle).power)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802
        raise NotImplementedError("the probe does not ask for it")

    def nvmlDeviceGetMaxClockInfo(self, handle: object, kind: int) -> int:  # noqa: N802
        assert kind == pynvml.NVML_CLOCK_MEM
        return value_of(board_of(handle).clock)

    def nvmlDeviceGetMemoryBusWidth(self, handle: object) -> int:  # noqa: N802
        return value_of(board_of(handle).width)

    def nvmlDeviceGetMigMode(self, device: object) -> list[int]:  # noqa: N802
        return value_of(board_of(device).mig)

    def nvmlDeviceGetMaxMigDeviceCount(self, device: object) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: object, index: int) -> object:  # noqa: N802
        if index not in board_of(device).slices:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return board_of(device).slices[index]


def board_of(handle: object) -> Board:
    assert isinstance(handle, Board)
    return handle


def value_of(value: T | Exception) -> T:
    if isinstance(value, Exception):
        raise value
    return value


def unsupported() -> Exception:
    error = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert isinstance(error, Exception)
    return error


def rtx_4090(number: int = 0) -> Board:
    return Board(
        "NVIDIA GeForce RTX 4090",
        (8, 9),
        Memory(25757220864, 25171918848),
        f"GPU-4090-{number}",
        450_000,
        10501,
        384,
    )


def h100_with_mig() -> Board:
    return Board(
        "NVIDIA H100 80GB HBM3",
        memory=Memory(80 * GIB, 78 * GIB),
        uuid="GPU-h100",
        mig=[1, 1],
        slices={
            0: Board(
                "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
                memory=Memory(10 * GIB, 9 * GIB),
                uuid="MIG-1111-aaaa",
            ),
            2: Board(
                "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
                memory=Memory(40 * GIB, 39 * GIB),
                uuid="MIG-3333-bbbb",
            ),
        },
    )


def read(*boards: Board, visible: str | None = None) -> Nvidia:
    return read_nvidia(ScriptedNvml(*boards), device_present=True, visible=visible)


def test_one_card() -> None:
    nvml = ScriptedNvml(rtx_4090())
    nvidia = read_nvidia(nvml, device_present=True)
    assert nvidia == Nvidia(
        gpus=(
            Gpu(
                index=0,
                name="NVIDIA GeForce RTX 4090",
                compute_capability=(8, 9),
                memory_total=25757220864,
                memory_free=25171918848,
                uuid="GPU-4090-0",
                power_limit_watts=450.0,
                memory_bandwidth=1008.096e9,
            ),
        ),
        driver="580.95.05",
        cuda_version="13.2",
    )
    assert nvml.open == 0


def test_no_card_and_no_driver_is_no_problem() -> None:
    assert read_nvidia(None, device_present=False) == Nvidia()
    for code in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
        assert read_nvidia(ScriptedNvml(init=code), device_present=False) == Nvidia()


def test_the_real_module_without_a_driver_or_with_one() -> None:
    nvml = load_nvml()
    assert nvml is not None
    assert issubclass(nvml.NVMLError, Exception)
    assert isinstance(read_nvidia(nvml, device_present=False), Nvidia)


def test_a_card_without_the_python_package() -> None:
    problem = read_nvidia(None, device_present=True).problem
    assert problem == "the Python package nvidia-ml-py is missing: pip install nvidia-ml-py"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "start it with --gpus all"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "sudo modprobe nvidia"),
        (
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
            "different versions, as after an update: reboot",
        ),
        (pynvml.NVML_ERROR_NO_PERMISSION, "access to /dev/nvidia*"),
        (pynvml.NVML_ERROR_UNKNOWN, "NVML says: Unknown Error; run nvidia-smi"),
    ],
)
def test_driver_trouble_says_what_to_do(code: int, advice: str) -> None:
    nvidia = read_nvidia(ScriptedNvml(init=code), device_present=True)
    assert nvidia.gpus == ()
    assert advice in (nvidia.problem or "")


def test_a_mismatch_is_reported_even_where_the_bus_cannot_be_read() -> None:
    nvml = ScriptedNvml(init=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    assert "reboot" in (read_nvidia(nvml, device_present=False).problem or "")


def test_a_lost_card_leaves_the_other() -> None:
    lost = Board("", lost=pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST))
    nvidia = read(lost, rtx_4090(1))
    assert [gpu.index for gpu in nvidia.gpus] == [1]
    assert nvidia.problem == (
        "GPU 0 cannot be used: it fell off the bus: reboot, then check power and cooling"
    )


@pytest.mark.parametrize("memory", [unsupported(), Memory(0, 0), Memory(128 * GIB, 8 * GIB)])
def test_a_spark_has_unified_memory(memory: Memory | Exception) -> None:
    board = Board(
        "NVIDIA GB10",
        (12, 1),
        memory,
        "GPU-2dee1e25",
        power=unsupported(),
        clock=unsupported(),
        width=unsupported(),
    )
    (gpu,) = read(board).gpus
    assert gpu.unified_memory
    assert (gpu.memory_total, gpu.memory_free, gpu.power_limit_watts) == (None, None, None)
    assert gpu.memory_bandwidth == 273e9


def test_a_new_unified_chip_is_seen_by_its_answer() -> None:
    (gpu,) = read(Board("NVIDIA N1X", memory=unsupported(), clock=unsupported())).gpus
    assert gpu.unified_memory
    assert gpu.memory_bandwidth is None


def test_memory_that_cannot_be_read_for_another_reason_is_trouble() -> None:
    board = Board("NVIDIA L4", memory=pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION))
    nvidia = read(board)
    assert nvidia.gpus == ()
    assert "GPU 0 cannot be used: no permission" in (nvidia.problem or "")


def test_mig_gives_the_first_slice() -> None:
    (gpu,) = read(h100_with_mig()).gpus
    assert gpu.mig_enabled
    assert gpu.mig_slices == (
        "1g.10gb 10.0 GiB MIG-1111-aaaa",
        "3g.40gb 40.0 GiB MIG-3333-bbbb",
    )
    assert (gpu.memory_total, gpu.memory_free, gpu.uuid) == (10 * GIB, 9 * GIB, "MIG-1111-aaaa")
    assert gpu.memory_bandwidth == pytest.approx(3352.32e9 / 8)


def test_mig_slice_chosen_by_name() -> None:
    (gpu,) = read(h100_with_mig(), visible="MIG-3333").gpus
    assert (gpu.memory_total, gpu.uuid) == (40 * GIB, "MIG-3333-bbbb")


def test_a_container_with_one_slice_may_not_ask_about_the_device() -> None:
    board = h100_with_mig()
    board.memory = pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
    nvidia = read(board)
    assert nvidia.problem is None
    (gpu,) = nvidia.gpus
    assert (gpu.memory_total, gpu.unified_memory, gpu.memory_bandwidth) == (10 * GIB, False, None)


def test_mig_without_slices_cannot_be_used() -> None:
    nvidia = read(Board("NVIDIA H100 80GB HBM3", mig=[1, 1]))
    assert nvidia.gpus[0].memory_total == 0
    assert nvidia.gpus[0].mig_slices == ()
    assert "MIG on but no slice" in (nvidia.problem or "")


def test_mig_off() -> None:
    (gpu,) = read(Board("NVIDIA H100 80GB HBM3", mig=[0, 0])).gpus
    assert not gpu.mig_enabled
    assert gpu.memory_total == 80 * GIB


@pytest.mark.parametrize(
    ("visible", "indexes"),
    [
        (None, [0, 1, 2]),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("0, 2", [0, 2]),
        ("GPU-4090-1", [1]),
        ("0,7,1", [0]),
        ("1,-1,0", [1]),
        ("1,1", [1]),
    ],
)
def test_cuda_visible_devices(visible: str | None, indexes: list[int]) -> None:
    nvidia = read(rtx_4090(0), rtx_4090(1), rtx_4090(2), visible=visible)
    assert [gpu.index for gpu in nvidia.gpus] == indexes
    assert nvidia.problem is None


@pytest.mark.parametrize("visible", ["", "-1", "GPU-other", "MIG-other"])
def test_hidden_cards_are_a_problem(visible: str) -> None:
    nvidia = read(rtx_4090(), visible=visible)
    assert nvidia.gpus == ()
    assert nvidia.problem == (
        f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU: unset or correct it"
    )


@pytest.mark.parametrize(
    ("name", "clock", "width", "data_sheet"),
    [
        ("NVIDIA H200", 3201, 6144, 4800e9),
        ("NVIDIA H100 80GB HBM3", 2619, 5120, 3350e9),
        ("NVIDIA A100-SXM4-80GB", 1593, 5120, 2039e9),
        ("NVIDIA GeForce RTX 3090", 9751, 384, 936e9),
        ("NVIDIA GeForce RTX 5090", 14001, 512, 1792e9),
        ("NVIDIA L40S", 9001, 384, 864e9),
        ("Tesla T4", 5001, 256, 320e9),
    ],
)
def test_bandwidth_from_the_clock_agrees_with_the_data_sheet(
    name: str, clock: int, width: int, data_sheet: float
) -> None:
    (gpu,) = read(Board(name, clock=clock, width=width)).gpus
    assert gpu.memory_bandwidth == pytest.approx(data_sheet, rel=0.03)
    assert known_bandwidth(name) == data_sheet


def test_bandwidth_from_the_table_where_nvml_does_not_tell() -> None:
    (gpu,) = read(Board("NVIDIA GeForce RTX 4090", width=unsupported())).gpus
    assert gpu.memory_bandwidth == 1008e9


@pytest.mark.parametrize(
    ("name", "bandwidth"),
    [
        ("NVIDIA A40", 696e9),
        ("NVIDIA A100-SXM4-40GB", 1555e9),
        ("NVIDIA A100 80GB PCIe", 1935e9),
        ("NVIDIA GB200", 8000e9),
        ("NVIDIA GeForce RTX 3090 Ti", 1008e9),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Quadro K2200", None),
    ],
)
def test_the_table_knows_a_name_or_says_nothing(name: str, bandwidth: float | None) -> None:
    assert known_bandwidth(name) == bandwidth
