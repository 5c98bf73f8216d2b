"""Who may come in, and how much they may bring: pure ASGI middleware around the whole app.

A server without a key on this machine's own address is still within reach of every web page that
the user opens: a page can post to it (cross-origin) or make its own name resolve to it (DNS
rebinding). So without a key, only requests for a loopback name and from no foreign page are taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from local_worker.api.errors import error_response
from local_worker.errors import ForbiddenError, RequestError, TooLargeError, UnauthorizedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from local_worker.config import ServerConfig

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Answered to anyone: they say nothing but whether the server works."""

LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
BODY_SECONDS = 60.0
"""A client that stops in the middle of its body is given up after so long."""

DRAIN_FACTOR = 8
"""A body over the limit is read and thrown away up to so many times the limit, because a client
that is still sending would otherwise see a broken connection and never the answer."""


class Guard:
    """Checks key, host, origin and body size before the app sees the request."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_caller(scope["path"], headers)
            self._check_length(headers)
        except RequestError as error:
            if isinstance(error, TooLargeError):
                with contextlib.suppress(RequestError):
                    await self._discard(receive)
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, self._counting(receive), send)

    def _check_caller(self, path: str, headers: Headers) -> None:
        if path in OPEN_PATHS:
            return
        if self._config.api_keys:
            self._check_key(headers.get("authorization", ""))
        elif self._config.is_loopback:
            _check_local(headers)

    def _check_key(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        given = key.strip().encode(errors="replace")
        known = [hmac.compare_digest(given, k.encode()) for k in self._config.api_keys]
        if scheme.lower() != "bearer" or not any(known):
            raise UnauthorizedError(
                "missing or wrong API key; send it as 'Authorization: Bearer <key>'"
            )

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._config.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> TooLargeError:
        limit = self._config.max_body_bytes
        return TooLargeError(f"the request body is over this server's limit of {limit:,} bytes")

    def _counting(self, receive: Receive) -> Receive:
        """A chunked body has no length to check beforehand: count what arrives."""
        received, complete = 0, False

        async def counting() -> Message:
            nonlocal received, complete
            if complete:  # waiting for the client to leave: that may take as long as it likes
                return await receive()
            message = await _in_time(receive)
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self._config.max_body_bytes:
                await self._discard(receive)
                raise self._too_large()
            return message

        return counting

    async def _discard(self, receive: Receive) -> None:
        left = self._config.max_body_bytes * DRAIN_FACTOR
        while left > 0:
            message = await _in_time(receive)
            left -= len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return


async def _in_time(receive: Receive) -> Message:
    try:
        return await asyncio.wait_for(receive(), BODY_SECONDS)
    except TimeoutError:
        raise RequestError(
            f"the request body did not go on within {BODY_SECONDS:g} seconds"
        ) from None


def _check_local(headers: Headers) -> None:
    host = headers.get("host", "")
    if not LOOPBACK.fullmatch(host):
        raise ForbiddenError(
            f"this server answers to localhost only, not to {host!r}; start it with --api-key to "
            "be reached by another name"
        )
    origin = headers.get("origin")
    if origin is not None and not LOOPBACK.fullmatch(origin.partition("://")[2]):
        raise ForbiddenError(
            f"web pages of {origin!r} may not use this server; start it with --api-key"
        )
