"""`local-worker bench`: what a server, or the engine alone, does on this machine."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from local_worker.cli import bench_decode, bench_serve, bench_tasks

if TYPE_CHECKING:
    import argparse

TERMINATED = 143
"""Status of a process that SIGTERM has ended, as shells give it."""

KINDS = {
    "serve": (
        bench_serve,
        "a server under load over HTTP: tokens/s, TTFT, ITL, beside a peer in the same run",
    ),
    "decode": (
        bench_decode,
        "this model without HTTP: tokens/s by sequences and depth, and what a step is spent on",
    ),
    "tasks": (
        bench_tasks,
        "a suite of tasks at several efforts: right answers, thinking tokens, seconds",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench`."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, (module, text) in KINDS.items():
        module.add_arguments(kinds.add_parser(name, help=text, description=text))


def run(options: argparse.Namespace) -> int:
    """Runs the kind that was asked for."""
    module, _ = KINDS[options.kind]
    # Servers that were started for it end with it.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        return int(module.run(options))
    finally:
        signal.signal(signal.SIGTERM, before)
