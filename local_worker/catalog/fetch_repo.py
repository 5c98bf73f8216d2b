"""Pull whole repositories in Hugging Face's layout: what vLLM loads is a folder, not a file.

The catalog names such repositories and not their files: the hub lists them once, the list is kept
beside them, and from then on they are an artifact like any other, resumed, checked and removed by
the same code.

    <owner>/<name>/<commit>/repo.json    names of the files that make the model whole
"""

from __future__ import annotations

import json
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from local_worker.catalog.fetch import pull
from local_worker.catalog.hub import Hub
from local_worker.catalog.schema import Artifact, ArtifactFile
from local_worker.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from local_worker.catalog.fetch import Progress
    from local_worker.catalog.store import Present, Store

LISTING = "repo.json"
_WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
_OTHER_LAYOUTS = ("consolidated*.safetensors", "*.bin.index.json", "*.msgpack.index.json")


def wanted_names(names: Iterable[str]) -> tuple[str, ...]:
    """The files of a repository that make the model: weights, configs, tokenizer, templates.

    Copies of the same weights in other layouts are left out, and so is all below a subfolder.
    """
    top = [name for name in names if "/" not in name]
    wanted = (name for name in top if any(fnmatch(name, pattern) for pattern in _WANTED))
    return tuple(sorted(n for n in wanted if not any(fnmatch(n, p) for p in _OTHER_LAYOUTS)))


def find_repo(store: Store, repo: str) -> Present | None:
    """The repository where it is here with all its files; of several commits the last pulled."""
    for listing in sorted(_listings(store, repo), key=lambda path: -path.stat().st_mtime):
        artifact = _read_listing(listing, repo)
        if artifact is not None and (present := store.find(artifact)) is not None:
            return present
    return None


def pull_repo(
    store: Store, repo: str, *, hub: Hub | None = None, progress: Progress | None = None
) -> Present:
    """Bring a repository here, unless it is.

    Raises:
        DownloadError: it could not be fetched, or has no weights that vLLM loads.
    """
    if (present := find_repo(store, repo)) is not None:
        return present
    hub = hub or Hub()
    commit, names = hub.list(repo)
    wanted = wanted_names(names)
    if not any(name.endswith(".safetensors") for name in wanted):
        raise DownloadError(f"{repo} has no .safetensors weights, which vLLM needs")
    folder = store.folder(repo, commit)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LISTING).write_text(json.dumps(wanted, indent=2) + "\n")
    except OSError as error:
        raise DownloadError(f"{folder} cannot be written: {error}") from error
    return pull(_artifact(repo, commit, wanted), store, hub=hub, progress=progress)


def remove_repo(store: Store, repo: str) -> int:
    """Remove the files of a repository, of every commit that was pulled. Returns bytes freed."""
    freed = 0
    for listing in _listings(store, repo):
        artifact = _read_listing(listing, repo)
        listing.unlink()
        if artifact is not None:
            freed += store.remove(artifact)
    return freed


def _listings(store: Store, repo: str) -> list[Path]:
    return list((store.models / repo).glob(f"*/{LISTING}"))


def _read_listing(listing: Path, repo: str) -> Artifact | None:
    """None where the list is damaged: pulling again writes it anew."""
    try:
        names = json.loads(listing.read_text())
        return _artifact(repo, listing.parent.name, names)
    except (OSError, ValueError, TypeError):
        return None


def _artifact(repo: str, commit: str, names: Iterable[str]) -> Artifact:
    return Artifact(
        repo=repo,
        revision=commit,
        files=tuple(ArtifactFile(name) for name in names),
        format="safetensors",
        quant="safetensors",
    )
