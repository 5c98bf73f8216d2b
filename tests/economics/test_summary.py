from __future__ import annotations

import datetime
from contextlib import closing

import pytest

from local_worker.economics.costs import Costs
from local_worker.economics.ledger import Ledger, connect
from local_worker.economics.summary import GROUPS, since, summarise
from local_worker.errors import ConfigError
from tests.economics.test_ledger import row

NOW = 1_790_000_000.0


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger(path, 36500)
    ledger.add(row(1, time=NOW - 60, effort="low"))
    ledger.add(row(2, time=NOW - 3600, effort="high", cost=0.5, output_tokens=100))
    ledger.add(row(3, time=NOW - 90000, effort="low", finish_reason="abort", energy_source="NVML"))
    ledger.close()
    return path


def test_all_of_it_is_one_line(path):
    with closing(connect(path, write=False)) as connection:
        (line,) = summarise(connection, 0.0, None)
    assert (line.group, line.requests, line.finished) == ("all", 3, 2)
    assert line.output_tokens == 114
    assert line.cost == pytest.approx(0.52)
    assert set(line.energy_sources.split(",")) == {"RAPL", "NVML"}
    assert line.tokens.prompt == 30
    assert line.share.seconds == pytest.approx(1.2)


def test_groups_come_with_the_dearest_first(path):
    with closing(connect(path, write=False)) as connection:
        lines = summarise(connection, 0.0, "effort")
        assert [(line.group, line.requests) for line in lines] == [("high", 1), ("low", 2)]
        assert [line.group for line in summarise(connection, NOW - 7200, "effort")] == [
            "high",
            "low",
        ]
        assert len(summarise(connection, NOW - 120, "effort")) == 1
        assert summarise(connection, NOW, None) == []
        for by in GROUPS:
            assert sum(line.requests for line in summarise(connection, 0.0, by)) == 3
        days = [line.group for line in summarise(connection, 0.0, "day")]
        assert days == sorted(days)


def test_other_currencies_stay_apart(path):
    ledger = Ledger(path, 36500)
    ledger.add(row(4, time=NOW, currency="EUR"))
    ledger.close()
    with closing(connect(path, write=False)) as connection:
        lines = summarise(connection, 0.0, None)
    assert {line.currency: line.requests for line in lines} == {"USD": 3, "EUR": 1}


def test_the_same_figures_can_be_reckoned_again(path):
    with closing(connect(path, write=False)) as connection:
        (line,) = summarise(connection, 0.0, None)
    assert Costs().of_share(line.share).total > 0


@pytest.mark.parametrize(
    ("text", "ago"), [("30m", 1800), ("24h", 86400), ("7d", 604800), ("2w", 1209600)]
)
def test_a_duration_is_before_now(text, ago):
    assert since(text, NOW) == NOW - ago


def test_a_date_is_that_day_here():
    here = datetime.datetime(2026, 11, 1).astimezone()
    assert since("2026-11-01", NOW) == here.timestamp()
    assert since("2026-11-01T12:30:00+00:00", NOW) == 1793536200.0


@pytest.mark.parametrize("text", ["", "7", "7y", "-7d", "yesterday", "2026-13-01", "99999999d"])
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError, match="neither a duration"):
        since(text, NOW)
