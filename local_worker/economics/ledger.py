"""The books: one row for each request, in an SQLite file. Never a word of what was said in it.

Rows are handed over without waiting; a thread writes them, several a second at once. SQLite's
write-ahead log keeps what was written when the process is killed. When the file cannot be written
(disk full, locked), rows wait for a while and are dropped then, counted, and serving goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING

from local_worker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

VERSION = 1
APPLICATION = 0x4C574C31
"""In the file's header: that it is a ledger of this program's."""

WRITE_SECONDS = 0.4
"""Between two writes; with what settling takes, less than a second."""

MOST_WAITING = 10_000
"""Rows that wait for a file that cannot be written, before they are dropped."""

AT_A_TIME = 32
"""Rows of one statement. After each the thread asks for the interpreter again, and if it then waits
for a processor, the event loop waits with it: few statements are better than many. Older versions
of SQLite take 999 values at the most."""

LOCK_SECONDS = 0.5
"""How long one write waits for another process that has the file."""

OPEN_SECONDS = 10.0
"""How long a start waits for another one that makes the file."""

RETRY_SECONDS = 0.02
"""Between two tries to make it."""

LAST_TRIES = 10
"""To write what is left at the end, before it is dropped."""

WARN_SECONDS = 60.0
"""Between two warnings that the file cannot be written."""

CLEAN_SECONDS = 3600.0
"""How often rows that are too old are looked for."""

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Row:
    """One request.

    Attributes:
        id: of the response.
        time: of its end, in seconds since 1970.
        key: which API key asked, as a short hash; empty where the server asks for none.
        model: as the response calls it.
        engine: that computed it.
        route: of the API.
        effort: level; `none` where there is no thought.
        budget: of thinking tokens; None where there is none.
        choices: sequences.
        prompt_tokens: each prompt once.
        cached_tokens: of those, that were not computed.
        thinking_tokens: sampled inside a thought.
        output_tokens: all that came out, thoughts included.
        router_tokens: that choosing the effort took, and trying to end thoughts early.
        queued: seconds until the first sequence was computed.
        prefill: seconds from there to its first token.
        decode: seconds from there to the end of the last one.
        machine_seconds: its share of the machine's time.
        joules: its share of the energy.
        baseline_joules: of those, what the machine would have taken anyway.
        unknown_seconds: of its share, for which no energy is known.
        energy_source: where the joules come from.
        cost: of electricity and hardware.
        currency: of the cost.
        finish_reason: of its choices; `mixed` where they differ, `abort` where the client left,
            `error` where it failed.
    """

    id: str
    time: float
    key: str
    model: str
    engine: str
    route: str
    effort: str
    budget: int | None
    choices: int
    prompt_tokens: int
    cached_tokens: int
    thinking_tokens: int
    output_tokens: int
    router_tokens: int
    queued: float
    prefill: float
    decode: float
    machine_seconds: float
    joules: float
    baseline_joules: float
    unknown_seconds: float
    energy_source: str
    cost: float
    currency: str
    finish_reason: str


COLUMNS = tuple(field.name for field in fields(Row))
_values = attrgetter(*COLUMNS)
_MARKS = f"({', '.join('?' * len(COLUMNS))})"
_TYPES = {"int": "INTEGER", "int | None": "INTEGER", "float": "REAL", "str": "TEXT"}
# No key but the order of arrival: a commit then writes one page and not one for each row.
_SCHEMA = ", ".join(f"{field.name} {_TYPES[str(field.type)]}" for field in fields(Row))


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """Opens a ledger.

    Raises:
        ConfigError: it is not there, is no ledger, or is of a newer version of this program.
    """
    if not write and not path.is_file():
        raise ConfigError(
            f"there is no ledger at {path}: serve something first, or say --ledger FILE"
        )
    try:
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        # The writing thread opens it, too, and nobody else uses that connection.
        connection = sqlite3.connect(
            path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            _check(connection, path, write=write)
            stack.pop_all()
    except OSError as error:
        raise ConfigError(f"the ledger {path} cannot be written: {error.strerror}") from None
    except sqlite3.Error as error:
        raise ConfigError(f"the ledger {path} cannot be used: {error}") from None
    return connection


def _check(connection: sqlite3.Connection, path: Path, *, write: bool) -> None:
    if not (_is_new(connection, path) and write):
        return
    deadline = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            with _transaction(connection):
                if _is_new(connection, path):  # nobody else has made it meanwhile
                    _create(connection)
        except sqlite3.OperationalError as error:
            # To those who change the journal at once SQLite says so without waiting for anybody.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether there is nothing in the file yet; raises `ConfigError` if it is not ours to use."""
    with contextlib.ExitStack() as stack:
        if not connection.in_transaction:
            # All at one moment: another process may be making it just now.
            connection.execute("BEGIN")
            stack.callback(connection.execute, "COMMIT")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not (tables or version or application):
        return True
    if application != APPLICATION:
        raise ConfigError(f"the ledger {path} is another program's database; say --ledger FILE")
    if version > VERSION:
        raise ConfigError(f"the ledger {path} is of a newer local-worker; say --ledger FILE")
    return False


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(f"CREATE TABLE requests ({_SCHEMA})")
    connection.execute("CREATE INDEX by_time ON requests (time)")
    connection.execute("CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT)")
    connection.execute("INSERT INTO settings VALUES ('salt', ?)", (secrets.token_hex(16),))
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


class Ledger:
    """Writes rows in a thread of its own.

    Args:
        path: of the file; it and its folder are made where they are missing.
        keep_days: rows older than that are removed, at the start and every hour.

    Attributes:
        written: rows.
        dropped: rows that the file lacks.
        seconds: of a processor, that its thread has taken.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path, keep_days: float) -> None:
        self._connection = connect(path, write=True)
        try:
            # WAL keeps a database whole without waiting for the disk at each commit.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            found = self._connection.execute("SELECT value FROM settings WHERE name = 'salt'")
            self._salt = bytes.fromhex(found.fetchone()[0])
        except (sqlite3.Error, TypeError, ValueError) as error:
            self._connection.close()
            raise ConfigError(f"the ledger {path} cannot be used: {error}") from None
        self._path = path
        self._keep = keep_days * DAY
        self._clean_at = 0.0
        self._queue: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._waiting: list[Row] = []
        self._ending = threading.Event()
        self._failing = False
        self._warn_at = 0.0
        self.written = 0
        self.dropped = 0
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that are not written yet."""
        return self._queue.qsize() + len(self._waiting)

    def add(self, row: Row) -> None:
        """One more row. Does not wait for anything."""
        self._queue.put(row)

    def key_name(self, key: str) -> str:
        """What to call an API key in the books: tells keys apart, and does not give them away."""
        if not key:
            return ""
        return hashlib.blake2b(key.encode(), key=self._salt, digest_size=4).hexdigest()

    def close(self) -> None:
        """Writes what is left."""
        self._ending.set()
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._take()
            self._write()
            self.seconds = time.thread_time()
            if time.monotonic() >= self._clean_at:
                self._clean()
        for _ in range(LAST_TRIES):
            self._write()
        self._drop(len(self._waiting))
        if self.dropped:
            log.warning("the ledger %s lacks %d rows", self._path, self.dropped)

    def _take(self) -> bool:
        """Waits for rows, and a little for more of them. Returns whether it was told to end."""
        with contextlib.suppress(queue.Empty):
            first = self._queue.get(timeout=WRITE_SECONDS if self._waiting else CLEAN_SECONDS)
            self._waiting += [first] if first else []
            self._ending.wait(WRITE_SECONDS)  # and is not woken for each of them
            more = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            self._waiting += [row for row in more if row]
        return self._ending.is_set() and self._queue.empty()

    def _write(self) -> None:
        rows = self._waiting
        if not rows:
            return
        try:
            with _transaction(self._connection):
                for start in range(0, len(rows), AT_A_TIME):
                    self._insert(rows[start : start + AT_A_TIME])
        except sqlite3.Error as error:
            self._drop(len(rows) - MOST_WAITING)
            self._warn(error)
            return
        if self._failing:
            self._failing = False
            log.warning("the ledger %s is written again; %d rows lost", self._path, self.dropped)
        self.written += len(rows)
        self._waiting = []

    def _insert(self, rows: list[Row]) -> None:
        marks = ", ".join([_MARKS] * len(rows))
        values = [value for row in rows for value in _values(row)]
        statement = f"INSERT INTO requests VALUES {marks}"  # noqa: S608 - marks
        try:
            self._connection.execute(statement, values)
        except UnicodeEncodeError:  # half of a pair of surrogates: no row is lost for that
            self._connection.execute(statement, [_encodable(value) for value in values])

    def _warn(self, error: sqlite3.Error) -> None:
        now = time.monotonic()
        if now < self._warn_at:
            return
        self._failing, self._warn_at = True, now + WARN_SECONDS
        log.warning(
            "the ledger %s cannot be written (%s): %d rows wait, %d are dropped (the oldest, where "
            "there are more than %d)",
            self._path, error, len(self._waiting), self.dropped, MOST_WAITING,
        )  # fmt: skip

    def _drop(self, count: int) -> None:
        if count > 0:
            self.dropped += count
            del self._waiting[:count]

    def _clean(self) -> None:
        self._clean_at = time.monotonic() + CLEAN_SECONDS
        with contextlib.suppress(sqlite3.Error):  # in an hour, then
            oldest = time.time() - self._keep
            self._connection.execute("DELETE FROM requests WHERE time < ?", (oldest,))


def _encodable(value: object) -> object:
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
