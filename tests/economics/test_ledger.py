from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from local_worker.economics import ledger as module
from local_worker.economics.ledger import COLUMNS, Ledger, Row, connect
from local_worker.errors import ConfigError

ROW = Row(
    id="r0", time=1.0, key="", model="m", engine="fake", route="chat/completions", effort="low",
    budget=16, choices=1, prompt_tokens=10, cached_tokens=2, thinking_tokens=3, output_tokens=7,
    router_tokens=1, queued=0.1, prefill=0.2, decode=0.3, machine_seconds=0.4, joules=5.0,
    baseline_joules=1.0, unknown_seconds=0.0, energy_source="RAPL", cost=0.01, currency="USD",
    finish_reason="stop",
)  # fmt: skip


def row(number, **fields):
    fields.setdefault("time", time.time())
    return replace(ROW, id=f"r{number}", **fields)


def rows_in(path):
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT * FROM requests ORDER BY id").fetchall()


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "books" / "ledger.sqlite3"


def test_what_cannot_be_encoded_is_no_reason_to_lose_a_row(path):
    ledger = Ledger(path, 30)
    for number, model in enumerate(("m", "half \ud83d", "ü")):
        ledger.add(row(number, model=model))
    ledger.close()
    assert [found[COLUMNS.index("model")] for found in rows_in(path)] == ["m", "half ?", "ü"]


def test_rows_come_back_as_they_were(path):
    ledger = Ledger(path, 30)
    kept = row(1, budget=None)
    ledger.add(kept)
    ledger.close()
    (found,) = rows_in(path)
    assert Row(**dict(zip(COLUMNS, found, strict=True))) == kept
    assert ledger.written == 1


def test_a_row_is_written_soon_and_without_waiting(path):
    ledger = Ledger(path, 30)
    try:
        ledger.add(row(1))
        until(lambda: len(rows_in(path)) == 1)
    finally:
        ledger.close()


def test_nobody_else_may_read_it(path):
    Ledger(path, 30).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_old_rows_are_removed(path):
    ledger = Ledger(path, 30)
    now = time.time()
    ledger.add(row(1, time=now - 31 * 86400))
    ledger.add(row(2, time=now - 29 * 86400))
    ledger.close()
    ledger = Ledger(path, 30)
    ledger.add(row(3))
    ledger.close()
    assert [found[0] for found in rows_in(path)] == ["r2", "r3"]


def test_keys_are_told_apart_and_not_given_away(path):
    ledger = Ledger(path, 30)
    names = {ledger.key_name(key) for key in ("secret-a", "secret-b", "")}
    assert len(names) == 3
    again = ledger.key_name("secret-a")
    ledger.close()
    other = Ledger(path, 30)
    assert other.key_name("secret-a") == again, "the same in the next life"
    other.close()
    assert b"secret" not in path.read_bytes()
    assert ledger.key_name("") == ""


def test_a_locked_file_is_waited_for(path, monkeypatch, caplog):
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.01)
    ledger = Ledger(path, 30)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            ledger.add(row(number))
        until(lambda: "cannot be written" in caplog.text)
        blocker.execute("ROLLBACK")
        until(lambda: ledger.written == 3)
    ledger.close()
    blocker.close()
    assert caplog.text.count("cannot be written") == 1
    assert ledger.dropped == 0
    assert len(rows_in(path)) == 3


def test_what_cannot_be_written_is_dropped_in_the_end_and_counted(path, monkeypatch, caplog):
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.01)
    monkeypatch.setattr(module, "MOST_WAITING", 5)
    ledger = Ledger(path, 30)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.WARNING):
        for number in range(8):
            ledger.add(row(number))
        until(lambda: ledger.dropped == 3)
        blocker.execute("ROLLBACK")
        until(lambda: ledger.written == 5)
        ledger.close()
    blocker.close()
    assert [found[0] for found in rows_in(path)] == ["r3", "r4", "r5", "r6", "r7"]
    assert "lacks 3 rows" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' full device")
def test_a_full_disk_stops_nothing(path, caplog):
    ledger = Ledger(path, 30)
    # A page limit makes SQLite say what it says on a full disk.
    ledger._connection.execute("PRAGMA max_page_count = 1")
    with caplog.at_level(logging.WARNING):
        for number in range(2000):
            ledger.add(row(number))
        until(lambda: "full" in caplog.text)
        ledger._connection.execute("PRAGMA max_page_count = 100000")
        ledger.close()
    assert len(rows_in(path)) == 2000


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_text("no database at all, but quite a bit of text " * 30), "not a data"),
        (lambda p: p.mkdir(), "Is a directory"),
        (lambda p: sqlite3.connect(p).execute("CREATE TABLE mine (x)"), "another program's"),
        (lambda p: sqlite3.connect(p).execute("PRAGMA user_version = 1"), "another program's"),
    ],
)
def test_what_is_no_ledger_of_ours_is_left_alone(tmp_path, make, words):
    path = tmp_path / "x.sqlite3"
    make(path)
    with pytest.raises(ConfigError, match=words):
        Ledger(path, 30)


def test_a_ledger_of_a_newer_version_is_left_alone(path):
    Ledger(path, 30).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(ConfigError, match="newer local-worker"):
        connect(path, write=False)


def test_a_ledger_whose_settings_are_gone_is_refused(path):
    Ledger(path, 30).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM settings")
    with pytest.raises(ConfigError, match="cannot be used"):
        Ledger(path, 30)


def test_two_that_make_the_same_ledger_at_once_both_get_it(path):
    barrier = threading.Barrier(4)
    made: list[Ledger | Exception] = []

    def make():
        barrier.wait()
        try:
            made.append(Ledger(path, 30))
        except ConfigError as error:
            made.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(one, Ledger) for one in made), made
    names = {one.key_name("k") for one in made if isinstance(one, Ledger)}
    for one in made:
        if isinstance(one, Ledger):
            one.close()
    assert len(names) == 1, "they share the salt"


def test_a_ledger_that_is_not_there_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="no ledger at"):
        connect(tmp_path / "none.sqlite3", write=False)
    assert not list(tmp_path.iterdir())


WRITER = """
import sys, time
from pathlib import Path
from tests.economics.test_ledger import row
from local_worker.economics.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), 30)
for number in range(10**6):
    ledger.add(row(number))
    print(number, time.time(), flush=True)
    time.sleep(0.001)
"""


def test_what_was_there_for_a_second_survives_a_kill(path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(2.0)
    process.send_signal(signal.SIGKILL)
    killed = time.time()
    lines = process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    told = [line.split() for line in lines if line.count(" ") == 1]
    copy = path.with_name("copy")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    found = {int(found[0][1:]) for found in rows_in(copy)}
    old = {int(number) for number, at in told if float(at) < killed - 1}
    assert len(old) > 100
    assert old <= found
    Ledger(path, 30).close()  # and it can be used again
