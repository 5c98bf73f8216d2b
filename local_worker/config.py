"""The server's settings: frozen, with each default in one place. `cli` fills them from options."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_worker.errors import ConfigError

if TYPE_CHECKING:
    from local_worker.rules import EffortRule

MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Pin:
    """Messages that conversations begin with, to be computed once and kept.

    Attributes:
        name: of the file they come from.
        messages: as in a request's body.
    """

    name: str
    messages: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How the HTTP side behaves.

    Attributes:
        host: address to bind.
        port: TCP port; 0 picks a free one.
        api_keys: any of them is accepted as a bearer token; empty asks for none.
        allow_open_network: binding beyond this machine without a key, said explicitly.
        max_body_bytes: of one request.
        max_messages: of one chat request.
        max_choices: `n`, and prompts of one completion request.
        max_queue: requests in the engine's care at a time, running ones included.
        drain_seconds: how long running requests may go on after SIGTERM.
        max_thinking_tokens: the operator's ceiling over every budget; None is no ceiling.
        default_effort: for clients that name none; None leaves it to the model, and `auto`
            where that says nothing.
        effort_rules: efforts that are fixed before `auto` asks the model; they come before the
            catalog's.
        early_exit: whether `auto` may end a thought whose answer is settled; None leaves it to the
            model's entry.
        budget_message: text put before the closer when a thought is cut.
        allow_unenforced_effort: serve effort although the self-test failed.
        pins: prompts to compute at start and keep.
        include_cost: every response says what it cost, unless its request says not to.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allow_open_network: bool = False
    max_body_bytes: int = 32 << 20
    max_messages: int = 4096
    max_choices: int = 128
    max_queue: int = 1024
    drain_seconds: float = 30.0
    max_thinking_tokens: int | None = None
    default_effort: str | None = None
    effort_rules: tuple[EffortRule, ...] = ()
    early_exit: bool | None = None
    budget_message: str = ""
    allow_unenforced_effort: bool = False
    pins: tuple[Pin, ...] = ()
    include_cost: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= MAX_PORT:
            raise ConfigError(f"port {self.port} is not between 0 and {MAX_PORT}")
        if self.max_thinking_tokens is not None and self.max_thinking_tokens < 0:
            raise ConfigError("--max-thinking-tokens cannot be negative")
        if self.drain_seconds < 0:
            raise ConfigError("--drain-seconds cannot be negative")
        if any(not key.strip() or not key.isascii() for key in self.api_keys):
            raise ConfigError("an API key must be a non-empty ASCII text")
        if not self.api_keys and not self.is_loopback and not self.allow_open_network:
            raise ConfigError(
                f"binding {self.host} lets other machines in: give an --api-key, or say "
                "--allow-open-network if that is what you want"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
