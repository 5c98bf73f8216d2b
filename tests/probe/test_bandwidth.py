import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local_worker.probe.bandwidth import (
    Measured,
    Reading,
    buffer_bytes,
    cache_file,
    measure_read_bandwidth,
    read_bandwidth,
)

MIB = 1 << 20
GIB = 1 << 30
KEY = "AMD EPYC, 2 cores, 24 GiB"


class Meter:
    """A scripted measurement that counts its calls."""

    def __init__(self, bytes_per_second: float, cpu_share: float = 1.0) -> None:
        self.measured = Measured(bytes_per_second, cpu_share)
        self.calls: list[tuple[int, int]] = []

    def __call__(self, threads: int, each: int) -> Measured:
        self.calls.append((threads, each))
        return self.measured


def out_of_memory(threads: int, each: int) -> Measured:
    raise OSError(12, "Cannot allocate memory")


@pytest.mark.parametrize(
    ("threads", "cache", "available", "each"),
    [
        (2, 32 * MIB, 24 * GIB, 128 * MIB),
        (1, 8 * MIB, 24 * GIB, 256 * MIB),
        (64, 32 * MIB, 512 * GIB, 64 * MIB),  # 4 GiB together and no more
        (4, 16 * MIB, 1 * GIB, 32 * MIB),  # an eighth of what is free
        (2, None, 24 * GIB, 256 * MIB),
        (2, 32 * MIB, 128 * MIB, None),  # it would measure the cache
        (8, 4 * MIB, 100 * MIB, None),
    ],
)
def test_buffers_exceed_the_cache_and_leave_memory_free(
    threads: int, cache: int | None, available: int, each: int | None
) -> None:
    assert buffer_bytes(threads, cache, available) == each


def test_a_short_measurement_gives_a_plausible_figure() -> None:
    measured = measure_read_bandwidth(1, 16 * MIB, seconds=0.05)
    assert 1e8 < measured.bytes_per_second < 1e13
    assert 0 < measured.cpu_share < 3


def test_cache_file_follows_xdg() -> None:
    home = Path("/home/ada")
    kept = "local-worker/bandwidth.json"
    assert cache_file({"XDG_CACHE_HOME": "/var/cache/ada"}, home) == Path("/var/cache/ada") / kept
    assert cache_file({}, home) == home / ".cache" / kept
    assert cache_file({"XDG_CACHE_HOME": "relative"}, home) == home / ".cache" / kept


def test_measured_once_and_then_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "bandwidth.json"
    today = datetime.now(UTC).date().isoformat()
    meter = Meter(31.5e9)
    assert read_bandwidth(KEY, 2, 256 * MIB, path, measure=meter) == Reading(31.5e9, today)
    again = read_bandwidth(KEY, 2, 256 * MIB, path, measure=meter)
    assert again == Reading(31.5e9, today, cached=True)
    assert meter.calls == [(2, 256 * MIB)]
    assert [file.name for file in path.parent.iterdir()] == ["bandwidth.json"]


def test_another_machine_has_its_own_entry(tmp_path: Path) -> None:
    path = tmp_path / "bandwidth.json"
    read_bandwidth(KEY, 2, 8 * MIB, path, measure=Meter(30e9))
    read_bandwidth("AMD EPYC, 1 cores, 24 GiB", 1, 8 * MIB, path, measure=Meter(20e9))
    assert {
        key: entry["bytes_per_second"] for key, entry in json.loads(path.read_text()).items()
    } == {
        KEY: 30_000_000_000,
        "AMD EPYC, 1 cores, 24 GiB": 20_000_000_000,
    }


def test_skip_does_nothing(tmp_path: Path) -> None:
    meter = Meter(30e9)
    assert read_bandwidth(KEY, 2, 8 * MIB, tmp_path / "f", skip=True, measure=meter) is None
    assert meter.calls == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"KEY": 3}',
        '{"KEY": {"bytes_per_second": "fast", "date": "2026-11-22"}}',
        '{"KEY": {"bytes_per_second": -1, "date": "2026-11-22"}}',
        '{"KEY": {"bytes_per_second": NaN, "date": "2026-11-22"}}',
        '{"KEY": {"bytes_per_second": Infinity, "date": "2026-11-22"}}',
        '{"KEY": {"bytes_per_second": 5}}',
    ],
)
def test_a_corrupt_file_is_ignored_and_written_again(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bandwidth.json"
    path.write_text(text.replace("KEY", KEY))
    reading = read_bandwidth(KEY, 2, 8 * MIB, path, measure=Meter(30e9))
    assert reading is not None
    assert not reading.cached
    assert json.loads(path.read_text())[KEY]["bytes_per_second"] == 30_000_000_000


def test_a_file_that_is_not_text_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "bandwidth.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert read_bandwidth(KEY, 2, 8 * MIB, path, measure=Meter(30e9)) is not None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "bandwidth.json"
    reading = read_bandwidth(KEY, 2, 8 * MIB, path, measure=Meter(30e9))
    assert reading is not None
    assert reading.bytes_per_second == 30e9


def test_a_disturbed_measurement_is_given_but_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "bandwidth.json"
    reading = read_bandwidth(KEY, 2, 8 * MIB, path, measure=Meter(17e9, cpu_share=0.5))
    assert reading is not None
    assert reading.disturbed
    assert not path.exists()


def test_too_little_memory_gives_none(tmp_path: Path) -> None:
    path = tmp_path / "bandwidth.json"
    assert read_bandwidth(KEY, 2, None, path, measure=Meter(30e9)) is None
    assert read_bandwidth(KEY, 2, 8 * MIB, path, measure=out_of_memory) is None
