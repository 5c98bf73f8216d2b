"""`local-worker cost report`: a suite of tasks at several efforts, as a page of what each costs."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.bench import report
from local_worker.bench.html import page
from local_worker.bench.verdicts import cheapest
from local_worker.bench.worth import (
    basis_section,
    break_even_section,
    efforts_section,
    own_task,
)
from local_worker.cli import bench_tasks
from local_worker.cli.bench_common import prices_today, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from local_worker.bench.html import Section
    from local_worker.cli.bench_tasks import Measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cost report`."""
    bench_tasks.add_task_arguments(parser)
    parser.add_argument("--html", type=Path, default=Path("cost-report.html"), metavar="FILE",
        help="the page (default: %(default)s)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Asks, reckons, writes the page."""
    for path in (options.json, options.html):
        if path is not None:
            bench_tasks.check_writable(path)
    bench_tasks.measure(options, partial(_tell, options))
    return 0


def _tell(options: argparse.Namespace, measured: Measured) -> None:
    told = list(bench_tasks.findings(measured))
    first = bench_tasks.section(measured)
    sections = [replace(first, notes=[*told, *first.notes]), *_sections(options, measured)]
    show(first)
    for line in told:
        print(line)
    report.write_json(options.json, bench_tasks.as_json(measured, told))
    report.write(options.html, page("What a task costs here", sections))
    print(f"written: {options.html}")


def _sections(options: argparse.Namespace, measured: Measured) -> Iterator[Section]:
    costs, rows, answers = measured.pricing.costs, measured.rows, measured.answers
    if all(row.cost is None for row in rows):
        print(
            "not all answers say what they took: there is nothing to reckon with (--price NAME, if "
            "an API of the price list gave them; another --results file, if older ones are in it)",
            file=sys.stderr,
        )
        return
    yield efforts_section(rows, answers, costs.currency)
    chosen = cheapest(rows, measured.suite.bar) or max(rows, key=lambda row: row.accuracy)
    own = own_task([a for a in answers if a.effort == chosen.effort], costs)
    if own is not None and measured.complete and measured.pricing.price is None:
        yield break_even_section(chosen, own, costs, prices_today(options.prices))
    yield basis_section(costs, answers, str(options.costs or "the defaults"))
