"""The command line: one module per command, each imported only when it is used."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING

from local_worker import __version__
from local_worker.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "serve": "serve a model over an OpenAI-compatible API (no --model: the embedded demo model)",
    "chat": "a quick conversation with a running server",
    "bench": "measure a server under load, beside a peer in the same run",
    "cost": "what the work so far has cost, and what a task costs at each effort",
    "probe": "show what this machine has and which backend it gets",
    "models": "list, show, pull, verify and remove models",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `local-worker`. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="local-worker",
        description="A local inference server for open-weight worker models.",
    )
    parser.add_argument("--version", action="version", version=f"local-worker {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((a for a in arguments if not a.startswith("-")), None)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == wanted:  # the others' modules stay unread
            module = importlib.import_module(f"local_worker.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except StartupError as error:
        print(f"local-worker: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
