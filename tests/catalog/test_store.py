from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from local_worker.catalog.schema import Artifact, ArtifactFile, Catalog
from local_worker.catalog.store import (
    FileRecord,
    Store,
    default_home,
    present_models,
    read_manifest,
    sha256_of,
    write_manifest,
)
from local_worker.errors import ModelFileError

REPO = "owner/model"
OLD, NEW = "a" * 40, "b" * 40


def artifact(*names: str, **changes: Any) -> Artifact:
    files = tuple(ArtifactFile(name) for name in names)
    return Artifact(**{"repo": REPO, "quant": "Q8_0", "files": files, **changes})


def keep(store: Store, revision: str, **files: bytes) -> Path:
    """Put files into the store as a pull would leave them."""
    folder = store.folder(REPO, revision)
    records = read_manifest(folder)
    for stem, data in files.items():
        path = folder / f"{stem}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        records[path.name] = FileRecord(len(data), hashlib.sha256(data).hexdigest())
    write_manifest(folder, records)
    return folder


@pytest.mark.parametrize(
    ("environ", "home"),
    [
        ({"LOCAL_WORKER_HOME": "/x", "XDG_DATA_HOME": "/y"}, "/x"),
        ({"XDG_DATA_HOME": "/y"}, "/y/local-worker"),
        ({"LOCAL_WORKER_HOME": ""}, str(Path("~/.local/share/local-worker").expanduser())),
    ],
)
def test_default_home(environ, home):
    assert default_home(environ) == Path(home)


def test_nothing_is_here(tmp_path):
    assert Store(tmp_path).find(artifact("m.gguf")) is None
    assert Store(tmp_path).find(artifact("m.gguf", revision=OLD)) is None


def test_finds_the_pinned_commit_or_the_one_pulled_last(tmp_path):
    store = Store(tmp_path)
    for revision, age in ((NEW, 100), (OLD, 200)):
        folder = keep(store, revision, m=b"data")
        os.utime(folder / "pulled.json", (1e9 - age, 1e9 - age))
    latest, pinned = store.find(artifact("m.gguf")), store.find(artifact("m.gguf", revision=OLD))
    assert latest is not None
    assert pinned is not None
    assert (latest.revision, pinned.revision) == (NEW, OLD)
    assert latest.bytes == 4


def test_a_file_of_another_size_is_not_here(tmp_path):
    store = Store(tmp_path)
    folder = keep(store, OLD, m=b"data")
    (folder / "m.gguf").write_bytes(b"dat")
    assert store.find(artifact("m.gguf")) is None


def test_all_parts_are_needed(tmp_path):
    store = Store(tmp_path)
    keep(store, OLD, m=b"data")
    assert store.find(artifact("m.gguf", "n.gguf")) is None
    keep(store, OLD, n=b"more")
    present = store.find(artifact("m.gguf", "n.gguf"))
    assert present is not None
    assert present.bytes == 8


def test_verify(tmp_path):
    store = Store(tmp_path)
    folder = keep(store, OLD, m=b"data", n=b"more")
    present = store.find(artifact("m.gguf", "n.gguf"))
    assert present is not None
    read: list[int] = []
    assert [check.problem for check in store.verify(present, read.append)] == [None, None]
    assert sum(read) == 8
    (folder / "m.gguf").write_bytes(b"dama")
    (folder / "n.gguf").write_bytes(b"mo")
    problems = [check.problem for check in store.verify(present)]
    assert problems[0] is not None
    assert problems[0].startswith("has the checksum ")
    assert problems[1] == "has 2 bytes instead of 4"


def test_verify_knows_the_checksum_of_the_catalog(tmp_path):
    store = Store(tmp_path)
    keep(store, OLD, m=b"data")
    wrong = Artifact(repo=REPO, quant="x", files=(ArtifactFile("m.gguf", 4, "0" * 64),))
    present = store.find(wrong)
    assert present is not None
    assert store.verify(present)[0].problem == (
        f"has the checksum {hashlib.sha256(b'data').hexdigest()} instead of {'0' * 64}"
    )


def test_remove_takes_only_what_belongs_to_the_artifact(tmp_path):
    store = Store(tmp_path)
    folder = keep(store, OLD, m=b"data", n=b"more")
    (folder / "m.gguf.0123.part").write_bytes(b"half")
    assert store.remove(artifact("m.gguf")) == 8
    assert sorted(path.name for path in folder.iterdir()) == ["n.gguf", "pulled.json"]
    assert set(read_manifest(folder)) == {"n.gguf"}
    assert store.remove(artifact("n.gguf")) == 4
    assert not (store.models / "owner").exists()
    assert store.remove(artifact("n.gguf")) == 0


def test_remove_takes_every_commit(tmp_path):
    store = Store(tmp_path)
    keep(store, OLD, m=b"data")
    keep(store, NEW, m=b"data2")
    assert store.remove(artifact("m.gguf")) == 9


def test_packaged_files_are_part_of_the_program(tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "m.gguf").write_bytes(b"data")
    monkeypatch.setattr("local_worker.catalog.store.resources.files", lambda package: tmp_path)
    packaged = Artifact(packaged=True, quant="Q8_0", files=(ArtifactFile("demo/m.gguf"),))
    store = Store(tmp_path / "home")
    present = store.find(packaged)
    assert present is not None
    assert (present.files, present.revision, present.bytes) == (
        (tmp_path / "demo" / "m.gguf",),
        None,
        4,
    )
    assert store.verify(present)[0].problem is None
    assert store.remove(packaged) == 0
    assert present.files[0].exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"m": 1}', '{"m": {"bytes": "x", "sha256": ""}}'])
def test_a_damaged_manifest_is_one_line(tmp_path, text):
    (tmp_path / "pulled.json").write_text(text)
    with pytest.raises(ModelFileError, match="is damaged; remove it and pull again"):
        read_manifest(tmp_path)


def test_present_models(tmp_path):
    entry = {
        "family": "f",
        "license": "MIT",
        "params": {"total": 2, "active": 1},
        "shape": {"layers": 1, "hidden": 2, "vocab": 3, "context": 4},
    }
    here, there = artifact("m.gguf"), artifact("n.gguf")
    catalog = Catalog.model_validate(
        {
            "date": "2026-11-22",
            "models": [
                {**entry, "id": "here", "artifacts": [here.model_dump()]},
                {**entry, "id": "there", "artifacts": [there.model_dump()]},
            ],
        }
    )
    store = Store(tmp_path)
    keep(store, OLD, m=b"data")
    found = present_models(catalog, store)
    assert list(found) == ["here"]
    assert found["here"][0].bytes == 4


def test_sha256_of(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert sha256_of(path).startswith("ba7816bf")
