"""What the benchmarks have in common on the command line."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.table import Table

from local_worker.economics.prices import current, load_prices

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from local_worker.bench.html import Section
    from local_worker.economics.prices import Price

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that each of them has."""
    add = parser.add_argument
    add("--pairs", type=int, default=3, metavar="N", help="runs of each (default: %(default)s)")
    add("--serve-arg", action="append", default=[], metavar="ARG",
        help="an option for `local-worker serve`, e.g. --serve-arg=--threads=2")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write every run there, also when one fails")
    add("--report", type=Path, metavar="FILE.html", help="write tables and plots there")
    add("--seed", type=int, help="of the prompts (default: another one each time)")


def base_url(url: str) -> str:
    """A server's address without `/v1`, which people may give or leave out."""
    return url.rstrip("/").removesuffix("/v1")


def in_turns(targets: Sequence[T], pair: int) -> Sequence[T]:
    """The order within a pair: who was first comes last in the next one."""
    return targets if pair % 2 == 0 else targets[::-1]


def prices_today(path: Path | None) -> tuple[Price, ...]:
    """The prices of a file, or the shipped ones, that hold today; raises `ConfigError`."""
    return current(load_prices(path), today())


def today() -> datetime.date:
    """Here."""
    return datetime.datetime.now().astimezone().date()


def show(section: Section) -> None:
    """Prints its table."""
    table = Table(title=section.title, title_justify="left")
    head, *rows = section.table
    for title in head:
        table.add_column(title, justify="right" if title else "left")  # names have no title
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def duration(seconds: float) -> str:
    """For people."""
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004


def energy(joules: float) -> str:
    """For people."""
    return f"{joules:,.1f} J" if joules < 36000 else f"{joules / 3.6e6:,.3f} kWh"  # noqa: PLR2004


def money(amount: float) -> str:
    """With as many digits as it takes to see something."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.3g}"
