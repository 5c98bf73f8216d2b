from __future__ import annotations

from local_worker.engines.llama_cpp.laps import Laps
from local_worker.types import EngineSeconds


def test_every_second_belongs_to_a_part_but_those_of_waiting():
    times = iter([10.0, 11.0, 13.0, 20.0, 20.5, 24.5])
    laps = Laps(lambda: next(times))
    assert laps.end("schedule") == 1.0
    assert laps.end("compute") == 2.0
    laps.skip()
    laps.end("schedule")
    laps.end("send")
    assert laps.seconds() == EngineSeconds(schedule=1.5, compute=2.0, send=4.0)


def test_what_was_taken_is_told_once():
    times = iter([10.0, 11.0, 13.0, 20.0, 20.5])
    laps = Laps(lambda: next(times))
    laps.end("schedule")
    laps.end("compute")
    assert laps.taken() == 3.0
    laps.skip()
    laps.end("schedule")
    assert laps.taken() == 0.5
    assert laps.taken() == 0.0
