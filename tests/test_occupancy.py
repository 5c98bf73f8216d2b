from __future__ import annotations

from local_worker.occupancy import Occupancy


def test_time_counts_while_there_is_at_least_one():
    busy = Occupancy()
    assert busy.seconds(5.0) == 0.0
    busy.enter("a", 10.0)
    busy.enter("b", 11.0)
    assert busy.seconds(12.0) == 2.0
    busy.leave("a", 13.0)
    assert busy.ids == {"b"}
    busy.leave("b", 14.0)
    assert busy.seconds(99.0) == 4.0
    busy.enter("c", 100.0)
    assert busy.seconds(101.5) == 5.5


def test_leaving_twice_or_without_coming_is_no_matter():
    busy = Occupancy()
    busy.leave("a", 1.0)
    busy.enter("a", 2.0)
    busy.enter("a", 3.0)
    busy.leave("a", 4.0)
    busy.leave("a", 5.0)
    assert busy.seconds(9.0) == 2.0
