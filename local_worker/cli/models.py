"""`local-worker models list|show|pull|verify|rm`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from local_worker.catalog.fetch import pull
from local_worker.catalog.fetch_repo import find_repo, pull_repo, remove_repo
from local_worker.catalog.load import find, find_quant, load
from local_worker.catalog.progress import Bar
from local_worker.catalog.render import render_list, render_model
from local_worker.catalog.store import Store, default_home, present_models
from local_worker.catalog.vllm_parts import subject_of_entry
from local_worker.errors import CatalogError, ModelFileError

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
            action.add_argument("--engine", choices=("llama_cpp", "vllm"), default="llama_cpp",
                help="whose weights: GGUF files, or a repository for vLLM")  # fmt: skip


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
        if options.engine == "vllm":
            present = pull_repo(store, repo_of(entry, options.quant), progress=bar)
        else:
            present = pull(find_quant(entry, options.quant), store, progress=bar)
    print(present.files[0].parent if options.engine == "vllm" else present.files[0])
    return 0


def _verify(entry: ModelEntry, store: Store, options: argparse.Namespace) -> int:
    if options.engine == "vllm":
        present = find_repo(store, repo_of(entry, options.quant))
    else:
        present = store.find(find_quant(entry, options.quant))
    if present is None:
        engine = " --engine vllm" if options.engine == "vllm" else ""
        raise ModelFileError(
            f"{entry.id} is not on this machine; fetch it: "
            f"local-worker models pull {entry.id}{engine}"
        )
    checks = store.verify(present)
    for check in checks:
        print(f"{check.path}: {check.problem or 'as it should be'}")
    return int(any(check.problem for check in checks))


def _remove(entry: ModelEntry, store: Store, options: argparse.Namespace) -> int:
    if options.engine == "vllm":
        freed = remove_repo(store, repo_of(entry, options.quant))
    else:
        freed = store.remove(find_quant(entry, options.quant))
    print(f"{freed / 1e9:.2f} GB freed", file=sys.stderr)
    return 0


def repo_of(entry: ModelEntry, quant: str | None) -> str:
    """The repository for vLLM with weights in that format; unasked, FP8, then NVFP4, then others.

    Raises:
        CatalogError: there is none; the message lists what there is.
    """
    weights = subject_of_entry(entry).weights
    repos = {w.quant: w.repo for w in reversed(weights) if w.repo is not None}
    usual = next((name for name in ("fp8", "nvfp4", *repos) if name in repos), "")
    wanted = quant.lower() if quant else usual
    if wanted not in repos:
        have = ", ".join(repos) or "nothing"
        raise CatalogError(f"{entry.id} has no {quant or 'weights'} for vLLM: {have}")
    return repos[wanted]
