"""The part of the command line that says what is kept account of, and at what prices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.catalog.store import default_home
from local_worker.economics.books import Books
from local_worker.economics.costs import load_costs
from local_worker.economics.detect import AUTO, find_source
from local_worker.economics.ledger import Ledger
from local_worker.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from local_worker.engine import Engine
    from local_worker.probe.hardware import Hardware

KEEP_DAYS = 400
"""A year, to compare a month with."""


def default_ledger() -> Path:
    """Where the ledger is unless somebody says otherwise."""
    return default_home(os.environ) / "ledger.sqlite3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `serve` on energy and cost."""
    group = parser.add_argument_group("energy and cost")
    add = group.add_argument
    add("--power", default=AUTO, metavar="WATTS|auto|command:LINE",
        help="where energy figures come from: the machine's own counters (auto), a wattage "
        "(120, or 120,35 while computing and idling), or a command that prints watts, as a smart "
        "plug's (default: %(default)s)")  # fmt: skip
    add("--costs", type=Path, metavar="FILE.yaml",
        help="what hardware, electricity and people cost (`local-worker cost defaults` prints a "
        "file to start from)")  # fmt: skip
    add("--include-cost", action="store_true",
        help="every response says what it cost, also when not asked to (include_cost)")  # fmt: skip
    add("--ledger", type=Path, metavar="FILE",
        help="SQLite file with one row for each request, and never its text (default: "
        "ledger.sqlite3 beside the models)")  # fmt: skip
    add("--no-ledger", action="store_true", help="keep no ledger")
    add("--ledger-days", type=float, default=KEEP_DAYS, metavar="N",
        help="remove rows that are older (default: %(default)s)")  # fmt: skip


class Accounts:
    """What the options ask for, checked before anything is loaded.

    Args:
        options: of `serve`.
        hardware: of this machine.
        gpu: whether its GPUs compute the model.

    Raises:
        ConfigError: an option, the cost file or the ledger cannot be used.
    """

    def __init__(self, options: argparse.Namespace, hardware: Hardware, *, gpu: bool) -> None:
        if options.no_ledger and options.ledger is not None:
            raise ConfigError("--ledger and --no-ledger exclude each other")
        if not options.ledger_days > 0:
            raise ConfigError("--ledger-days is a number of days above 0")
        self._costs = load_costs(options.costs)
        self._power = find_source(options.power, hardware, gpu=gpu)
        self._ledger = None
        self._path = (options.ledger or default_ledger()).expanduser()
        if not options.no_ledger:
            self._ledger = Ledger(self._path, options.ledger_days)

    def books(self, engine: Engine) -> Books:
        """The books of a server with that engine."""
        return Books(engine, self._power.source, self._costs, self._ledger)

    def lines(self) -> Iterator[str]:
        """What the user should know, for the start."""
        source, note = self._power.source, self._power.note
        if not source.measures and note is None:
            note = "nothing to measure with; --power says more"
        yield f"energy   {source.label}" + (f" ({note})" if note else "")
        yield f"ledger   {self._path}" if self._ledger else "ledger   none (--no-ledger)"
