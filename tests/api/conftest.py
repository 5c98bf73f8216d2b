from __future__ import annotations

from contextlib import asynccontextmanager

import httpx
import pytest

from local_worker.api.app import create_app
from local_worker.api.model import ModelCard, load_model
from local_worker.catalog.schema import SamplingDefaults, ThinkingSpec
from local_worker.config import ServerConfig
from local_worker.economics.books import Books
from local_worker.economics.costs import Costs
from local_worker.economics.sources import Wattage
from local_worker.engines.fake import FakeEngine, Script

SPEC = ThinkingSpec(
    start="<think>",
    end="</think>",
    close="\n</think>\n\n",
    primed=True,
    switch="enable_thinking",
    default_on=True,
    tool_call_start="<tool_call>",
    tool_call_end="</tool_call>",
    effort={"none": 0, "minimal": 4, "low": 16, "medium": 64, "high": 256, "xhigh": 512},
    answer_allowance=128,
    default_effort="medium",
)


class Api:
    """An app on a scripted engine, and a client that calls it in the same process."""

    def __init__(self, engine, app, client):
        self.engine = engine
        self.state = app.state.api
        self.client = client

    async def chat(self, content="Hi", **fields):
        body = {"messages": [{"role": "user", "content": content}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)


@pytest.fixture
def make_api():
    @asynccontextmanager
    async def make(reply=None, *, thinking=SPEC, config=None, load=True, power=None, ledger=None,
                   **engine_options):  # fmt: skip
        script = Script() if reply is None else Script(reply=lambda _: reply)
        engine = FakeEngine(script, **engine_options)
        config = config or ServerConfig()
        books = Books(
            engine, power or Wattage(100.0, None, "estimated from 100 W"), Costs(), ledger
        )
        app = create_app(books, config)
        await engine.start()
        if load:
            card = ModelCard(("scripted", "alias"), thinking, SamplingDefaults(), created=7)
            app.state.api.loaded = await load_model(engine, card, config)
        engine.requests.clear()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield Api(engine, app, client)

    return make
