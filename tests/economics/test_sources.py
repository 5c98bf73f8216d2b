from __future__ import annotations

import time

import pytest

from local_worker.economics.energy import Reading
from local_worker.economics.sources import (
    Rapl,
    Sampled,
    Together,
    Wattage,
    asking,
    combined_watts,
)

# As macOS 15 prints it on an M2, shortened.
POWERMETRICS = """\
*** Sampled system activity (Mon Nov 16 10:00:00 2026 +0100) (503.10ms elapsed) ***

**** Processor usage ****

CPU Power: 1893 mW
GPU Power: 41 mW
ANE Power: 0 mW
Combined Power (CPU + GPU + ANE): 1934 mW
"""


def zone(folder, name, microjoules):
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder


def until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_wattage_grows_with_time_and_says_that_it_is_one():
    source = Wattage(100.0, None, "estimated from 100 W")
    assert source.read(2.0, 0.5) == Reading(2.0, (200.0,))
    assert not source.measures


def test_a_wattage_can_tell_work_from_idling():
    source = Wattage(100.0, 30.0, "estimated")
    assert source.read(10.0, 4.0) == Reading(10.0, (4 * 100.0 + 6 * 30.0,))


def test_rapl_adds_up_no_zones_but_shows_each(tmp_path):
    source = Rapl([zone(tmp_path / "0", "package-0", 5_000_000), zone(tmp_path / "1", "dram", 7)])
    assert source.read(1.0, 0.0) == Reading(1.0, (5.0, 7e-6))
    assert source.label == "RAPL (package-0 and dram)"
    assert source.measures


def test_rapl_that_cannot_be_read_any_more_says_nothing(tmp_path):
    folder = zone(tmp_path / "0", "package-0", 1)
    source = Rapl([folder])
    (folder / "energy_uj").write_text("?")
    assert source.read(1.0, 0.0) == Reading(1.0, None)
    (folder / "energy_uj").unlink()
    assert source.read(2.0, 0.0) == Reading(2.0, None)


def test_a_meter_is_asked_in_the_background_and_its_answer_holds():
    answers = iter([40.0, None, 80.0])
    asked = []

    def ask():
        asked.append(time.monotonic())
        return next(answers, 80.0)

    source = Sampled(ask, 0.05, "plug")
    try:
        until(lambda: source.read(time.monotonic(), 0.0).joules is not None)
        until(lambda: source.read(time.monotonic(), 0.0).joules is None)
        until(lambda: source.read(time.monotonic(), 0.0).joules is not None)
        first, begun = source.read(now := time.monotonic(), 0.0), now
        time.sleep(0.02)
        second = source.read(now := time.monotonic(), 0.0)
        assert first.joules is not None
        assert second.joules is not None
        assert second.joules[0] - first.joules[0] == pytest.approx(80.0 * (now - begun), rel=0.01)
    finally:
        source.close()
    assert len(asked) >= 3


def test_sources_of_different_parts_go_together(tmp_path):
    packages = Rapl([zone(tmp_path / "0", "package-0", 2_000_000)])
    both = Together([packages, Wattage(10.0, None, "fan")])
    assert both.read(3.0, 0.0) == Reading(3.0, (2.0, 30.0))
    assert both.label == "RAPL (package-0) + fan"
    (tmp_path / "0" / "energy_uj").unlink()
    assert both.read(3.0, 0.0).joules is None


@pytest.mark.parametrize(
    ("command", "watts"),
    [
        ("echo 41.5", 41.5),
        ("echo ' 12 W'", 12.0),
        ("echo 'power: 12 W'", None),
        ('echo \'{"id":0,"apower":45.2}\'', None),
        ("echo -5.3", None),
        ("echo 1,234.5", None),
        ("echo none", None),
        ("false", None),
        ("no-such-command-at-all", None),
    ],
)
def test_a_command_is_taken_at_its_number(command, watts):
    assert asking(command)() == watts


def test_powermetrics_is_read():
    assert combined_watts(POWERMETRICS) == pytest.approx(1.934)
    assert combined_watts("powermetrics must be invoked as the superuser") is None
    assert combined_watts(None) is None
