from __future__ import annotations

import asyncio
import socket

import pytest

from local_worker.config import ServerConfig
from local_worker.serve.listen import bind

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_small_events_are_not_held_back(host):
    """Nagle's algorithm would keep each one until the client has acknowledged the last: 40 ms."""
    accepted: asyncio.Queue[int] = asyncio.Queue()

    async def serve(reader, writer):
        connection = writer.get_extra_info("socket")
        accepted.put_nowait(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = bind(ServerConfig(host=host, port=0))
    server = await asyncio.start_server(serve, sock=listener)
    async with server:
        _, writer = await asyncio.open_connection(host, listener.getsockname()[1])
        assert await accepted.get() == 1
        writer.close()
