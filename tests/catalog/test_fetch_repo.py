"""Whole repositories from the stand-in for the hub."""

from __future__ import annotations

import pytest

from local_worker.catalog.fetch_repo import find_repo, pull_repo, remove_repo, wanted_names
from local_worker.catalog.hub import Hub
from local_worker.catalog.store import Store
from local_worker.errors import DownloadError

REPO = "owner/model-NVFP4"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{ }",
    "chat_template.jinja": b"x",
    "model-00001-of-00002.safetensors": b"a" * 5000,
    "model-00002-of-00002.safetensors": b"b" * 3000,
    "model.safetensors.index.json": b"{  }",
}
OTHERS = {
    "README.md": b"text",
    "pytorch_model.bin": b"p",
    "pytorch_model.bin.index.json": b"p",
    "consolidated.safetensors": b"c" * 8000,
    "original/model.safetensors": b"o" * 8000,
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "home")


@pytest.fixture
def filled(hub):
    hub.files |= {(REPO, name): data for name, data in (FILES | OTHERS).items()}
    return hub


def get(store, hub):
    return pull_repo(store, REPO, hub=Hub(hub.url))


def test_only_what_makes_the_model_is_wanted():
    assert wanted_names((*FILES, *OTHERS)) == tuple(sorted(FILES))


def test_a_repository_becomes_a_folder(store, filled):
    assert find_repo(store, REPO) is None
    present = get(store, filled)
    folder = store.folder(REPO, filled.commit)
    assert {path.name: path.read_bytes() for path in present.files} == FILES
    assert {path.parent for path in present.files} == {folder}
    assert find_repo(store, REPO) == present


def test_what_is_here_is_not_asked_for_again(store, filled, monkeypatch):
    present = get(store, filled)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    filled.requests.clear()
    assert get(store, filled) == present
    assert filled.requests == []


def test_an_interrupted_pull_is_no_model_and_goes_on(store, filled):
    filled.get_status = [503] * 50
    with pytest.raises(DownloadError):
        get(store, filled)
    assert find_repo(store, REPO) is None
    filled.get_status = []
    assert len(get(store, filled).files) == len(FILES)


def test_a_file_that_went_missing_is_fetched_again(store, filled):
    present = get(store, filled)
    present.files[0].unlink()
    assert find_repo(store, REPO) is None
    assert get(store, filled).files == present.files


def test_a_damaged_list_is_written_anew(store, filled):
    get(store, filled)
    (store.folder(REPO, filled.commit) / "repo.json").write_text("[")
    assert find_repo(store, REPO) is None
    assert get(store, filled)


def test_no_weights_for_vllm(store, hub):
    hub.files[REPO, "model.gguf"] = b"GGUF"
    with pytest.raises(DownloadError, match=r"no \.safetensors weights"):
        get(store, hub)


def test_no_such_repository(store, hub):
    with pytest.raises(DownloadError, match=r"not found|no such"):
        get(store, hub)


def test_a_name_that_leaves_the_folder_is_not_wanted(store, hub):
    hub.files[REPO, "../model.safetensors"] = b"x"
    with pytest.raises(DownloadError):
        get(store, hub)
    assert not list(store.models.rglob("*.safetensors"))


def test_removing_leaves_nothing(store, filled):
    get(store, filled)
    assert remove_repo(store, REPO) == sum(map(len, FILES.values()))
    assert find_repo(store, REPO) is None
    assert not store.folder(REPO, filled.commit).exists()
    assert remove_repo(store, REPO) == 0
