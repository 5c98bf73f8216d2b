from __future__ import annotations

import errno
import io

import pytest

from local_worker.catalog.hub import Hub, HubFile, is_offline, problem_of
from local_worker.errors import DownloadError


@pytest.mark.parametrize(
    ("environ", "offline"),
    [
        ({}, False),
        ({"HF_HUB_OFFLINE": "0"}, False),
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "True"}, True),
    ],
)
def test_is_offline(environ, offline):
    assert is_offline(environ) is offline


def test_describe(hub):
    hub.files["o/m", "f.gguf"] = b"data"
    file = Hub(hub.url).describe("o/m", "f.gguf", None)
    assert (file.commit, file.size) == (hub.commit, 4)
    assert file.sha256 == file.etag
    assert file.url == f"{hub.url}/o/m/resolve/{hub.commit}/f.gguf"


def test_a_file_that_is_not_in_large_storage_has_no_sha256(hub):
    hub.files["o/m", "config.json"] = b"{}"
    hub.etag = "1" * 40
    assert Hub(hub.url).describe("o/m", "config.json", None).sha256 is None


def test_the_endpoint_comes_from_the_environment(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    hub.files["o/m", "f.gguf"] = b"data"
    assert Hub().describe("o/m", "f.gguf", None).size == 4


def test_the_library_is_switched_off_by_its_own_offline_mode(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="the network is switched off"):
        Hub(hub.url).describe("o/m", "f.gguf", None)


def test_files_that_plain_http_cannot_bring():
    file = HubFile("o/m", "f.gguf", "http://127.0.0.1:9", "c", "e", 50_000_000_001, None)
    with pytest.raises(DownloadError, match="larger than the 50 GB"):
        Hub("http://127.0.0.1:9").read(file, io.BytesIO(), 0)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full; what has arrived is kept, make room and"),
        (OSError(errno.EDQUOT, "x"), "the disk is full"),
        (PermissionError(errno.EACCES, "x"), "cannot be written: Permission denied"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "no connection to the hub ("),
        (OSError("Consistency check failed: a\nb"), "the connection ended too early; pull again"),
        (ValueError(""), "no connection to the hub (ValueError); pull again to go on"),
    ],
)
def test_problems_are_one_line(error, line):
    assert problem_of(error).startswith(line)
    assert "\n" not in problem_of(error)
