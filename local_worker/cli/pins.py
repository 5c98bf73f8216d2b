"""Files of `--pin-prefix`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from local_worker.config import Pin
from local_worker.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def read_pin(path: Path) -> Pin:
    """A system message in a text file, or messages in a JSON file: a list, or a request's body.

    Raises:
        ConfigError: it cannot be read, is empty, or is neither.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"--pin-prefix {path} cannot be read: {why}") from None
    if not text.strip():
        raise ConfigError(f"--pin-prefix {path} is empty")
    if path.suffix != ".json":
        return Pin(path.name, ({"role": "system", "content": text.strip()},))
    try:
        body = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--pin-prefix {path} is not valid JSON: {error}") from None
    messages = body.get("messages") if isinstance(body, dict) else body
    if not isinstance(messages, list) or not messages:
        raise ConfigError(
            f"--pin-prefix {path}: a list of messages is wanted, or an object with 'messages'"
        )
    if not all(isinstance(message, dict) for message in messages):
        raise ConfigError(f"--pin-prefix {path}: a message is an object with 'role' and 'content'")
    return Pin(path.name, tuple(messages))
