"""Server-sent events, and noticing at any moment that the client has gone."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.responses import Response

from local_worker.api.errors import error_body, log_unexpected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.types import Receive, Scope, Send

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


class ClientGoneError(Exception):
    """Nobody is there to answer any more."""


def event(payload: dict[str, Any]) -> bytes:
    """One event, as the bytes that go over the wire."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


async def disconnected(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(work: Awaitable[T], receive: Receive) -> T:
    """Awaits `work`; cancels it and raises `ClientGoneError` when the client goes first."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


class EventStream(Response):
    """Streams payloads as events and ends with `[DONE]`, or with an error event and without it.

    The client's going is noticed while nothing is being sent, too: a request that still waits or
    prefills is given up at once. `on_end` is called once, whatever happens, also when nothing was
    ever sent.
    """

    media_type = "text/event-stream"

    def __init__(
        self, payloads: AsyncGenerator[dict[str, Any], None], on_end: Callable[[], None]
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._payloads = payloads
        self._on_end = on_end

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        try:
            await unless_gone(self._send_all(send), receive)
        except ClientGoneError:
            return
        finally:
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._payloads) as payloads:
            last = DONE
            try:
                async for payload in payloads:
                    body = event(payload)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - headers are out: it can only be an event
                log_unexpected(error)
                last = event(error_body(error))
        await send({"type": "http.response.body", "body": last, "more_body": False})
