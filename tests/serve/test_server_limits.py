"""What a client can do to the server before it has said who it is."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

PART = 4096
MOST = 4 << 20
"""Bytes: far more than any head has."""


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"GET /health HTTP/1.1\r\n", b"X-%d: " + b"a" * PART + b"\r\n"),
        (b"GET /health HTTP/1.1\r\nX: ", b"a" * PART),
        (b"GET /", b"a" * PART),
    ],
    ids=["headers", "a header", "an address"],
)
def test_a_head_that_does_not_end_is_refused(api_url, start, part):
    address = urlsplit(api_url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 80), timeout=30) as client:
        sent = 0
        try:
            client.sendall(start)
            while sent < MOST:
                client.sendall(part.replace(b"%d", b"%d" % sent))
                sent += len(part)
            answer = client.recv(64)
        except ConnectionError:
            return  # closed in the middle of it
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
