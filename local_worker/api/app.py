"""Puts the API together around an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from local_worker import __version__
from local_worker.api import chat, completions, errors, misc
from local_worker.api.admission import Admission
from local_worker.api.guard import Guard
from local_worker.api.metrics import Metrics
from local_worker.api.state import ApiState

if TYPE_CHECKING:
    from local_worker.config import ServerConfig
    from local_worker.economics.books import Books


def create_app(books: Books, config: ServerConfig) -> FastAPI:
    """An app for the books' engine; `app.state.api` is its `ApiState`.

    There is no interactive documentation: its pages load scripts from elsewhere.
    """
    engine = books.engine
    app = FastAPI(
        title="local-worker",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics(books)
    app.state.api = ApiState(engine, config, Admission(config.max_queue), metrics, books)
    for module in (chat, completions, misc):
        app.include_router(module.router)
    errors.install(app)
    app.add_middleware(Guard, config=config)
    return app
