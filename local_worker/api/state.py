"""What the routes share: one object, made by `app.create_app`, passed and never global."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from local_worker import __version__
from local_worker.api.render import Head
from local_worker.errors import EngineNotReadyError
from local_worker.reasoning.routing import Conversations

if TYPE_CHECKING:
    from starlette.requests import Request

    from local_worker.api.admission import Admission
    from local_worker.api.metrics import Metrics
    from local_worker.api.model import ServedModel
    from local_worker.config import ServerConfig
    from local_worker.economics.books import Books
    from local_worker.engine import Engine

FINGERPRINT = f"local-worker-{__version__}"


@dataclass(slots=True)
class ApiState:
    """The parts behind the routes.

    Attributes:
        loaded: the served model; None until `serve` has loaded it.
        books: account of all requests.
        conversations: what `auto` has chosen for them.
    """

    engine: Engine
    config: ServerConfig
    admission: Admission
    metrics: Metrics
    books: Books
    loaded: ServedModel | None = field(default=None)
    conversations: Conversations = field(default_factory=Conversations)
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    @property
    def model(self) -> ServedModel:
        """The served model; raises `EngineNotReadyError` while it is loading."""
        if self.loaded is None:
            raise EngineNotReadyError("the model is still loading", retry_after=2)
        return self.loaded

    def cache_salt(self, request: Request, asked: str | None) -> str:
        """Keeps apart what tenants compute: how fast a prompt is answered must tell no one's.

        Each API key is a tenant, and a client can draw lines of its own (vLLM's `cache_salt`). The
        salt is of this process alone and says nothing about the key.
        """
        tenant = request.headers.get("authorization", "") if len(self.config.api_keys) > 1 else ""
        if not tenant and not asked:
            return ""
        given = f"{tenant}\0{asked or ''}".encode(errors="surrogatepass")
        return hashlib.blake2b(given, key=self._secret, digest_size=16).hexdigest()

    def head(self, prefix: str, adapter: str | None = None) -> Head:
        """A new response's common fields."""
        response_id = f"{prefix}-{secrets.token_hex(12)}"
        return Head(response_id, int(time.time()), adapter or self.model.name, FINGERPRINT)


def state_of(request: Request) -> ApiState:
    """The state of the app that serves this request."""
    state = request.app.state.api
    assert isinstance(state, ApiState)
    return state
