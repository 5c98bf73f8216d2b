from __future__ import annotations

import pytest

from local_worker.config import ServerConfig
from local_worker.errors import ConfigError


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"host": "localhost"}, {"host": "::1"}, {"host": "127.0.0.2"}, {"port": 0},
        {"host": "0.0.0.0", "api_keys": ("k",)}, {"host": "::", "allow_open_network": True},
    ],
)  # fmt: skip
def test_what_may_be_bound(fields):
    ServerConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host": "0.0.0.0"}, "--api-key"), ({"host": "worker.example"}, "--allow-open-network"),
        ({"port": -1}, "port"), ({"port": 65536}, "65535"), ({"api_keys": ("",)}, "API key"),
        ({"api_keys": ("schlüssel",)}, "ASCII"), ({"max_thinking_tokens": -1}, "negative"),
        ({"drain_seconds": -1.0}, "negative"),
    ],
)  # fmt: skip
def test_what_may_not(fields, words):
    with pytest.raises(ConfigError, match=words):
        ServerConfig(**fields)
