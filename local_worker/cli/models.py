"""`local-worker models list|show|pull|verify|rm`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from local_worker.catalog.fetch import pull
from local_worker.catalog.load import find, find_quant, load
from local_worker.catalog.progress import Bar
from local_worker.catalog.render import render_list, render_model
from local_worker.catalog.store import Store, default_home, present_models
from local_worker.errors import ModelFileError

if TYPE_CHECKING:
    import argparse

    from local_worker.catalog.schema import ModelEntry

ACTIONS = {
    "list": "the catalog, and what of it is on this machine",
    "show": "everything known about a model, unconfirmed facts marked",
    "pull": "fetch a model's weights, resuming where an earlier pull stopped",
    "verify": "read weights again and compare their checksums",
    "rm": "remove a model's weights",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `models`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        if name != "list":
            action.add_argument("name", help="catalog name or alias")
        if name in ("pull", "verify", "rm"):
            action.add_argument("--quant", help="quantisation (default: the recommended one)")


def run(options: argparse.Namespace) -> int:
    """Dispatches to the action."""
    catalog, store = load(), Store(default_home(os.environ))
    if options.action == "list":
        print(render_list(catalog, present_models(catalog, store)), end="")
        return 0
    entry = find(catalog, options.name)
    if options.action == "show":
        here = present_models(catalog, store).get(entry.id, ())
        print(render_model(entry, here), end="")
        return 0
    return {"pull": _pull, "verify": _verify, "rm": _remove}[options.action](entry, store, options)


def _pull(entry: ModelEntry, store: Store, options: argparse.Namespace) -> int:
    with Bar() as bar:
        present = pull(find_quant(entry, options.quant), store, progress=bar)
    print(present.files[0])
    return 0


def _verify(entry: ModelEntry, store: Store, options: argparse.Namespace) -> int:
    present = store.find(find_quant(entry, options.quant))
    if present is None:
        raise ModelFileError(
            f"{entry.id} is not on this machine; fetch it: local-worker models pull {entry.id}"
        )
    checks = store.verify(present)
    for check in checks:
        print(f"{check.path}: {check.problem or 'as it should be'}")
    return int(any(check.problem for check in checks))


def _remove(entry: ModelEntry, store: Store, options: argparse.Namespace) -> int:
    freed = store.remove(find_quant(entry, options.quant))
    print(f"{freed / 1e9:.2f} GB freed", file=sys.stderr)
    return 0
