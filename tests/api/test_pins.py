from __future__ import annotations

from dataclasses import replace

import pytest

from local_worker.api.pins import SHORTEST, pin
from local_worker.config import Pin
from local_worker.errors import ConfigError

pytestmark = pytest.mark.anyio

SYSTEM = "You are a clerk who reads invoices and answers with nothing but the total. " * 3


def pinned(text=SYSTEM):
    return Pin("clerk.txt", ({"role": "system", "content": text},))


async def test_what_conversations_begin_with_is_computed_once_for_everybody(make_api):
    async with make_api() as api:
        tokens = await pin(api.state, pinned())
        requests = list(api.engine.requests)
        assert tokens == sum(len(r.prompt_token_ids) for r in requests)
        assert all(r.pinned and r.max_tokens == 1 for r in requests)
        api.engine.requests.clear()
        for effort in ("none", "low", "high"):
            messages = [pinned().messages[0], {"role": "user", "content": "pens 3x14"}]
            body = {"messages": messages, "reasoning_effort": effort}
            await api.client.post("/v1/chat/completions", json=body)
        for request in api.engine.requests:
            prompt = request.prompt_token_ids
            assert any(prompt[: len(p.prompt_token_ids)] == p.prompt_token_ids for p in requests)
            assert not request.pinned


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (pinned("Hi"), f"fewer than {SHORTEST}"),
        (Pin("x.json", ({"role": "nobody", "content": "x"},)), "x.json"),
        (Pin("x.json", ({"content": "x"},)), "messages.0"),
    ],
)
async def test_what_cannot_be_pinned(make_api, wanted, words):
    async with make_api() as api:
        with pytest.raises(ConfigError, match=words):
            await pin(api.state, wanted)


async def test_an_engine_that_keeps_nothing(make_api):
    async with make_api() as api:
        api.engine._info = replace(api.engine.info, pins=False)
        with pytest.raises(ConfigError, match="--prefix-slots"):
            await pin(api.state, pinned())
