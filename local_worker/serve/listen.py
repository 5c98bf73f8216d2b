"""The listening socket, without the web framework behind it, which takes a while to import."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from local_worker.errors import ConfigError

if TYPE_CHECKING:
    from local_worker.config import ServerConfig


def bind(config: ServerConfig) -> socket.socket:
    """Opens the listening socket. Raises `ConfigError` when the address cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # The protocol by name: only then does asyncio switch Nagle's algorithm off on what is accepted,
    # which would hold small events back until the client acknowledges the last one (40 ms).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {config.port} on {config.host} is in use; choose another with --port"
            ) from None
        raise ConfigError(f"cannot listen on {config.host}:{config.port}: {error}") from None
    return listener  # uvicorn listens on it: until then, connections are refused and not kept
