"""Pulls from a stand-in for the hub: interrupted, resumed, refused, wrong, full, offline."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from local_worker.catalog import fetch
from local_worker.catalog.fetch import pull
from local_worker.catalog.hub import Hub
from local_worker.catalog.schema import Artifact, ArtifactFile
from local_worker.catalog.store import FileRecord, Store, read_manifest
from local_worker.errors import DownloadError, ModelFileError

REPO, NAME = "owner/model-GGUF", "model.gguf"
CHUNK = 1 << 16  # what the library writes at once, see conftest


class Recorder:
    def __init__(self) -> None:
        self.started: list[tuple[str, int, int]] = []
        self.bytes = 0
        self.checked = 0

    def start(self, name: str, total: int, done: int) -> None:
        self.started.append((name, total, done))

    def advance(self, count: int) -> None:
        if len(self.started) == 1:
            self.bytes += count
        else:
            self.checked += count


@pytest.fixture
def content(gguf) -> bytes:
    """A GGUF file of about 1 MB."""
    data: bytes = gguf({"general.architecture": "x"}, [("a", (1 << 18,), 0)])
    return data


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def filled(hub, content) -> Any:
    hub.files[REPO, NAME] = content
    return hub


def artifact(*names: str, **changes: Any) -> Artifact:
    files = tuple(ArtifactFile(name) for name in names or (NAME,))
    return Artifact(**{"repo": REPO, "quant": "Q8_0", "files": files, **changes})


def test_a_pull_brings_the_file(filled, store, content):
    recorder = Recorder()
    present = pull(artifact(), store, hub=Hub(filled.url), progress=recorder)
    path = store.home / "models" / REPO / filled.commit / NAME
    assert present.files == (path,)
    assert present.revision == filled.commit
    assert present.bytes == len(content)
    assert path.read_bytes() == content
    assert recorder.started == [
        (NAME, len(content), 0),
        (f"checking {NAME}", len(content), 0),
    ]
    assert recorder.bytes == recorder.checked == len(content)
    digest = hashlib.sha256(content).hexdigest()
    assert read_manifest(path.parent) == {NAME: FileRecord(len(content), digest)}
    assert not list(store.home.rglob("*.part"))


def test_the_content_is_asked_for_by_commit(filled, store):
    pull(artifact(), store, hub=Hub(filled.url))
    assert [(method, path) for method, path, _ in filled.requests] == [
        ("HEAD", f"/{REPO}/resolve/main/{NAME}"),
        ("GET", f"/{REPO}/resolve/{filled.commit}/{NAME}"),
    ]
    shutil.rmtree(store.home)
    filled.requests.clear()
    pull(artifact(revision=filled.commit), store, hub=Hub(filled.url))
    assert filled.requests[0][1] == f"/{REPO}/resolve/{filled.commit}/{NAME}"


def test_what_is_here_needs_no_network(filled, store, monkeypatch):
    pull(artifact(), store, hub=Hub(filled.url))
    filled.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull(artifact(), store, hub=Hub(filled.url)).revision == filled.commit
    assert filled.requests == []


def test_offline_and_not_here(filled, store, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="is not here and the network is switched off"):
        pull(artifact(), store, hub=Hub(filled.url))
    assert filled.requests == []


def test_a_cut_connection_is_resumed_within_a_pull(filled, store, content):
    filled.cut = 5 * CHUNK + 100
    pull(artifact(), store, hub=Hub(filled.url))
    assert filled.requests[2] == (
        "GET",
        f"/{REPO}/resolve/{filled.commit}/{NAME}",
        f"bytes={5 * CHUNK}-",
    )
    assert filled.sent == [5 * CHUNK + 100, len(content) - 5 * CHUNK]


def test_an_interrupted_pull_goes_on_where_it_stopped(filled, store, content):
    filled.cut = 10 * CHUNK
    filled.get_status = []
    original = filled.content

    def fail_after_the_cut(path: str) -> bytes | None:
        if filled.cut is None:
            filled.get_status = [503]
        data: bytes | None = original(path)
        return data

    filled.content = fail_after_the_cut
    with pytest.raises(DownloadError, match="the hub answered with HTTP status 503; pull again"):
        pull(artifact(), store, hub=Hub(filled.url))
    assert not (store.folder(REPO, filled.commit) / NAME).exists()
    assert store.find(artifact()) is None
    filled.content, filled.get_status = original, []
    filled.sent.clear()

    recorder = Recorder()
    present = pull(artifact(), store, hub=Hub(filled.url), progress=recorder)
    assert filled.sent == [len(content) - 10 * CHUNK]
    assert recorder.started[0] == (NAME, len(content), 10 * CHUNK)
    assert recorder.bytes == len(content) - 10 * CHUNK
    assert present.files[0].read_bytes() == content


def test_a_killed_pull_goes_on_in_another_process(hub, store, gguf):
    content = gguf({"general.architecture": "x"}, [("a", (6_000_000,), 0)])
    hub.files[REPO, NAME] = content
    hub.stall = 22_000_000  # two chunks of the 10 MiB that the library writes by default
    program = (
        "import sys; from pathlib import Path; from local_worker.catalog.fetch import pull;"
        "from local_worker.catalog.hub import Hub; from local_worker.catalog.store import Store;"
        "from local_worker.catalog.schema import Artifact;"
        f"pull(Artifact(repo={REPO!r}, quant='x', files=[[{NAME!r}]]), Store(Path(sys.argv[1])),"
        " hub=Hub(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(store.home), hub.url])
    # `time.sleep` is switched off in these tests, so an event waits.
    deadline = time.monotonic() + 60
    while part_bytes(store) < 20 << 20 and time.monotonic() < deadline:
        assert process.poll() is None
        hub.released.wait(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert part_bytes(store) == 20 << 20

    hub.stall = None
    hub.sent.clear()
    present = pull(artifact(), store, hub=Hub(hub.url))
    assert hub.sent == [len(content) - (20 << 20)]
    assert present.files[0].read_bytes() == content


def part_bytes(store: Store) -> int:
    return sum(path.stat().st_size for path in store.home.rglob("*.part"))


def test_a_hub_that_ignores_the_offset_sends_all_of_it(filled, store, content):
    filled.cut = 3 * CHUNK
    filled.ignore_range = True
    recorder = Recorder()
    present = pull(artifact(), store, hub=Hub(filled.url), progress=recorder)
    assert present.files[0].read_bytes() == content
    assert recorder.bytes == len(content)
    assert filled.sent == [3 * CHUNK, len(content)]


def test_an_unfinished_file_of_other_content_is_dropped(filled, store, content):
    folder = store.folder(REPO, filled.commit)
    folder.mkdir(parents=True)
    (folder / f"{NAME}.0123456789abcdef.part").write_bytes(b"old")
    present = pull(artifact(), store, hub=Hub(filled.url))
    assert present.files[0].read_bytes() == content
    assert not list(folder.glob("*.part"))


def test_a_part_that_is_too_long_starts_again(filled, store, content):
    tag = hashlib.sha256(content).hexdigest()[:16]
    folder = store.folder(REPO, filled.commit)
    folder.mkdir(parents=True)
    (folder / f"{NAME}.{tag}.part").write_bytes(content + b"more")
    assert pull(artifact(), store, hub=Hub(filled.url)).files[0].read_bytes() == content


def test_a_wrong_checksum_removes_the_file(filled, store, content):
    filled.etag = "0" * 64
    with pytest.raises(DownloadError) as caught:
        pull(artifact(), store, hub=Hub(filled.url))
    digest = hashlib.sha256(content).hexdigest()
    assert str(caught.value) == (
        f"{REPO}/{NAME}: wrong checksum {digest}, expected {'0' * 64}; the file was removed, pull"
        " it again"
    )
    assert not [path for path in store.home.rglob("*") if path.suffix in (".gguf", ".part")]


def test_content_that_the_catalog_does_not_know_is_not_fetched(filled, store, content):
    wanted = artifact(files=(ArtifactFile(NAME, len(content), "1" * 64),))
    with pytest.raises(DownloadError, match="other content than the catalog names"):
        pull(wanted, store, hub=Hub(filled.url))
    assert filled.sent == []


def test_a_size_that_the_catalog_does_not_know(filled, store, content):
    file = ArtifactFile(NAME, len(content) + 1)
    with pytest.raises(DownloadError, match=r"the hub has [\d,]+ bytes, the catalog names [\d,]+"):
        pull(artifact(files=(file,), revision=filled.commit), store, hub=Hub(filled.url))
    # Not pinned, it may have been replaced since.
    assert pull(artifact(files=(file,)), store, hub=Hub(filled.url)).bytes == len(content)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ((401, ""), "unauthorized: a private, gated or misspelled repository; set HF_TOKEN"),
        ((401, "GatedRepo"), "access is refused; accept the licence on the model's page and set"),
        ((403, ""), "access is refused"),
        ((404, "EntryNotFound"), "the repository has no such file"),
        ((404, "RevisionNotFound"), "the repository has no such revision"),
        ((404, ""), "not found: no such repository or file"),
        ((429, ""), "the hub limits the rate of requests"),
        ((500, ""), "the hub answered with HTTP status 500"),
    ],
)
def test_refusals_of_the_hub(filled, store, status, message):
    filled.status = status
    with pytest.raises(DownloadError) as caught:
        pull(artifact(), store, hub=Hub(filled.url))
    assert str(caught.value).startswith(f"{REPO}/{NAME}: {message}")
    assert "\n" not in str(caught.value)


def test_a_gated_repository_with_a_token(filled, store, content):
    filled.token = "hf_secret"
    with pytest.raises(DownloadError, match="access is refused"):
        pull(artifact(), store, hub=Hub(filled.url, token="hf_wrong"))
    present = pull(artifact(), store, hub=Hub(filled.url, token="hf_secret"))
    assert present.files[0].read_bytes() == content


def test_a_redirect_is_followed(filled, store, content):
    filled.redirect = True
    assert pull(artifact(), store, hub=Hub(filled.url)).bytes == len(content)
    assert filled.requests[-1][1] == f"/cdn/{REPO}/{NAME}"


def test_no_hub_at_all(store, hub):
    with pytest.raises(DownloadError, match=r"no connection to the hub \(.+\); pull again"):
        pull(artifact(), store, hub=Hub("http://127.0.0.1:9"))


@pytest.mark.parametrize("commit", ["", "main", "../../../../tmp/x", "A" * 40])
def test_something_that_is_no_hub(filled, store, commit):
    filled.commit = commit
    with pytest.raises(DownloadError, match="does not answer like a hub"):
        pull(artifact(), store, hub=Hub(filled.url))


def test_not_enough_disk_is_said_before_the_download(filled, store, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(DownloadError, match=r"not enough disk space in .+: 0.0 GB are needed"):
        pull(artifact(), store, hub=Hub(filled.url))
    assert filled.sent == []


def test_a_disk_that_fills_up_keeps_what_has_arrived(filled, store, monkeypatch, content):
    write = fetch._Counted.write

    def write_until_full(self: Any, data: bytes) -> int:
        if self.tell() >= 4 * CHUNK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(fetch._Counted, "write", write_until_full)
    with pytest.raises(DownloadError, match="the disk is full; what has arrived is kept"):
        pull(artifact(), store, hub=Hub(filled.url))
    assert part_bytes(store) == 4 * CHUNK
    monkeypatch.setattr(fetch._Counted, "write", write)
    filled.sent.clear()
    assert pull(artifact(), store, hub=Hub(filled.url)).bytes == len(content)
    assert filled.sent == [len(content) - 4 * CHUNK]


def test_a_folder_that_cannot_be_made(filled, tmp_path):
    (tmp_path / "home").write_text("in the way")
    with pytest.raises(DownloadError, match=r"cannot be written: Not a directory"):
        pull(artifact(), Store(tmp_path / "home"), hub=Hub(filled.url))


def test_split_files_come_together(hub, store, gguf):
    names = [f"Q8_0/m-0000{part}-of-00002.gguf" for part in (1, 2)]
    for number, name in enumerate(names):
        values = {"general.architecture": "x", "split.no": number, "split.count": 2}
        hub.files[REPO, name] = gguf(values, [(f"t{number}", (32,), 0)])
    present = pull(artifact(*names), store, hub=Hub(hub.url))
    assert [path.name for path in present.files] == [name.partition("/")[2] for name in names]
    assert store.find(artifact(*names)) == present
    # The second file was asked for at the commit that the first request resolved.
    assert hub.requests[1][1] == f"/{REPO}/resolve/{hub.commit}/{names[1]}"


def test_only_missing_parts_are_fetched(hub, store, gguf):
    names = [f"m-0000{part}-of-00002.gguf" for part in (1, 2)]
    values = {"general.architecture": "x", "split.count": 2}
    hub.files[REPO, names[0]] = gguf({**values, "split.no": 0}, [("a", (32,), 0)])
    with pytest.raises(DownloadError, match="no such file"):
        pull(artifact(*names), store, hub=Hub(hub.url))
    hub.files[REPO, names[1]] = gguf({**values, "split.no": 1}, [("b", (32,), 0)])
    pull(artifact(*names), store, hub=Hub(hub.url))
    (store.folder(REPO, hub.commit) / names[1]).unlink()
    hub.sent.clear()
    pull(artifact(*names), store, hub=Hub(hub.url))
    assert hub.sent == [len(hub.files[REPO, names[1]])]


def test_a_file_that_is_no_gguf_is_refused_after_the_download(hub, store):
    hub.files[REPO, NAME] = b"<html>please sign in</html>"
    with pytest.raises(ModelFileError, match="is not a GGUF file"):
        pull(artifact(), store, hub=Hub(hub.url))


def test_two_pulls_at_once(filled, store):
    folder = store.folder(REPO, filled.commit)
    folder.mkdir(parents=True)
    with (
        fetch._locked(folder),
        pytest.raises(DownloadError, match="another pull is writing to"),
    ):
        pull(artifact(), store, hub=Hub(filled.url))


def test_a_packaged_file_that_is_missing(store):
    packaged = Artifact(packaged=True, quant="Q8_0", files=(ArtifactFile("no/such.gguf"),))
    with pytest.raises(DownloadError, match="is missing from the installed program"):
        pull(packaged, store)
