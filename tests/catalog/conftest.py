"""Hand-made GGUF bytes, and a stand-in for the hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from local_worker.catalog.ggml import TENSOR_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Tensor = tuple[str, tuple[int, ...], int]


def pack_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def pack_value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + pack_text(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(pack_text, value))
    kind, fmt = (7, "B") if isinstance(value[0], bool) else (5, "i")
    return struct.pack(f"<IIQ{len(value)}{fmt}", 9, kind, len(value), *value)


def tensor_size(tensor: Tensor) -> int:
    count = 1
    for length in tensor[1]:
        count *= length
    kind = TENSOR_TYPES[tensor[2]]
    return count // kind.block * kind.size


def pack_gguf(
    values: Mapping[str, Any], tensors: Sequence[Tensor] = (), *, version: int = 3
) -> bytes:
    """A whole GGUF file with zeros for weights."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    for key, value in values.items():
        head += pack_text(key) + pack_value(value)
    alignment: int = values.get("general.alignment", 32)
    offset = 0
    for tensor in tensors:
        name, shape, kind = tensor
        head += pack_text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)
        offset += -(-tensor_size(tensor) // alignment) * alignment
    head += b"\0" * (-len(head) % alignment)
    return head + b"\0" * offset


TINY: dict[str, Any] = {
    "general.architecture": "qwen3moe",
    "general.name": "Tiny",
    "general.file_type": 7,
    "qwen3moe.block_count": 2,
    "qwen3moe.context_length": 4096,
    "qwen3moe.embedding_length": 64,
    "qwen3moe.feed_forward_length": 96,
    "qwen3moe.attention.head_count": 4,
    "qwen3moe.attention.head_count_kv": 2,
    "qwen3moe.attention.key_length": 32,
    "qwen3moe.attention.value_length": 32,
    "qwen3moe.expert_count": 4,
    "qwen3moe.expert_used_count": 2,
    "qwen3moe.expert_feed_forward_length": 96,
    "tokenizer.ggml.tokens": ["a", "b", "c", "d"],
    "tokenizer.chat_template": "{{- '<think>\n' }}</think>{% if enable_thinking %}",
}
TINY_TENSORS: tuple[Tensor, ...] = (
    ("token_embd.weight", (64, 4), 8),
    ("blk.0.attn_q.weight", (64, 128), 8),
    ("blk.0.ffn_up_exps.weight", (64, 96, 4), 8),
    ("output_norm.weight", (64,), 0),
)


@pytest.fixture
def gguf() -> Callable[..., bytes]:
    return pack_gguf


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny model; keyword arguments change or remove (None) metadata values."""

    def write(name: str = "tiny.gguf", tensors: Any = TINY_TENSORS, **changes: Any) -> Path:
        values = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
        path = tmp_path / name
        kept = {key: value for key, value in values.items() if value is not None}
        path.write_bytes(pack_gguf(kept, tensors))
        return path

    return write


@dataclass
class StandIn:
    """What the hub has and how it misbehaves.

    Attributes:
        files: (repository, file name) -> content.
        cut: the next GET ends its connection after this many bytes.
        stall: a GET stops sending after this many bytes and holds the connection.
        get_status: GETs of content are answered with these, one after the other.
        status: everything is answered with this (status, X-Error-Code).
        token: needed for access.
    """

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    commit: str = COMMIT
    url: str = ""
    cut: int | None = None
    stall: int | None = None
    get_status: list[int] = field(default_factory=list)
    status: tuple[int, str] | None = None
    token: str | None = None
    etag: str | None = None
    size: int | None = None
    redirect: bool = False
    ignore_range: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def listing(self, repo: str) -> bytes | None:
        """What the hub says about a repository, as far as it is asked."""
        names = [name for owner, name in self.files if owner == repo]
        answer = {"id": repo, "sha": self.commit, "siblings": [{"rfilename": n} for n in names]}
        return json.dumps(answer).encode() if names else None

    def content(self, path: str) -> bytes | None:
        if path.startswith("/api/models/"):
            return self.listing(path.removeprefix("/api/models/"))
        for (repo, name), data in self.files.items():
            for revision in ("main", self.commit):
                if path in (f"/{repo}/resolve/{revision}/{name}", f"/cdn/{repo}/{name}"):
                    return data
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub = self.hub
        wanted = self.headers.get("Range")
        hub.requests.append((self.command, self.path, wanted))
        data = hub.content(self.path)
        if hub.status is not None:
            return self._refuse(*hub.status)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._refuse(401, "GatedRepo")
        if data is None:
            return self._refuse(404, "EntryNotFound")
        if body and hub.get_status:
            return self._refuse(hub.get_status.pop(0), "")
        if body and hub.redirect and not self.path.startswith("/cdn/"):
            repo, _, name = self.path[1:].partition("/resolve/")
            return self._send(302, b"", {"Location": f"/cdn/{repo}/{name.partition('/')[2]}"})
        start = 0
        if wanted and not hub.ignore_range:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        headers = {
            "X-Repo-Commit": hub.commit,
            "ETag": f'"{hub.etag or hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(hub.size or len(data)),
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], headers, body=body)
        return None

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code} if code else {})

    def _send(
        self, status: int, data: bytes, headers: Mapping[str, str], *, body: bool = True
    ) -> None:
        hub = self.hub
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not body or not data:
            return
        stop = hub.cut if hub.cut is not None else hub.stall
        part = data if stop is None else data[:stop]
        hub.sent.append(len(part))
        self.wfile.write(part)
        self.wfile.flush()
        if hub.cut is not None:
            hub.cut = None
            self.close_connection = True
        elif hub.stall is not None:
            hub.released.wait(30)
            self.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A hub on 127.0.0.1, and the library set up for it."""
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    stand_in = StandIn()
    handler = type("Handler", (_Handler,), {"hub": stand_in})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    yield stand_in
    stand_in.released.set()
    server.shutdown()
    thread.join()
    server.server_close()
