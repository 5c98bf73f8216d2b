from __future__ import annotations

from dataclasses import replace

import pytest

from local_worker.api.model import SelfTest

pytestmark = pytest.mark.anyio


async def test_models(make_api):
    async with make_api() as api:
        listed = (await api.client.get("/v1/models")).json()
        named = (await api.client.get("/v1/models/ALIAS")).json()
        unknown = await api.client.get("/v1/models/other")
    assert listed["data"] == [named]
    assert (named["id"], named["created"], named["max_model_len"]) == ("scripted", 7, 4096)
    assert unknown.status_code == 404


async def test_tokenize_and_back(make_api):
    async with make_api() as api:
        for field in ("prompt", "content"):
            body = (await api.client.post("/tokenize", json={field: "Hi"})).json()
            assert body == {"tokens": [72, 105], "count": 2, "max_model_len": 4096}
        text = (await api.client.post("/detokenize", json={"tokens": [72, 105]})).json()
        chat = {"messages": [{"role": "user", "content": "Hi"}]}
        rendered = (await api.client.post("/v1/tokenize", json=chat)).json()
    assert text == {"prompt": "Hi", "content": "Hi"}
    assert rendered["count"] > 10


async def test_health_is_about_the_process_alone(make_api):
    async with make_api(load=False) as api:
        assert (await api.client.get("/health")).json() == {"status": "ok"}


async def test_ready_says_what_is_missing(make_api):
    async with make_api() as api:
        loaded = api.state.loaded

        async def ready():
            response = await api.client.get("/ready")
            return response.status_code, response.json()["status"]

        assert await ready() == (200, "ready")
        api.state.loaded = replace(loaded, self_test=SelfTest("it does not hold", ""))
        assert await ready() == (503, "effort self-test failed")
        api.state.loaded = loaded
        await api.engine.aclose()
        assert await ready() == (503, "restarting the engine")
        await api.engine.start()
        api.state.admission.drain()
        assert await ready() == (503, "shutting down")
        api.state.loaded = None
        assert await ready() == (503, "loading the model")


async def test_effort_is_refused_when_the_self_test_failed(make_api):
    async with make_api() as api:
        failed = SelfTest("it does not hold", "")
        api.state.loaded = replace(api.state.loaded, self_test=failed)
        refused = await api.chat(reasoning_effort="low")
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            400,
            "effort_not_enforced",
        )
        assert (await api.chat()).status_code == 200
        api.state.loaded = replace(api.state.loaded, allow_unenforced=True)
        assert (await api.chat(reasoning_effort="low")).status_code == 200


async def test_metrics_count_what_happened(make_api):
    async with make_api() as api:
        await api.chat(reasoning_effort="low")
        text = (await api.client.get("/metrics")).text
    assert 'local_worker_thinking_tokens_total{closed_by="model",effort="low"} 8.0' in text
    assert 'local_worker_sequences_total{finish_reason="stop"} 1.0' in text
    assert "local_worker_output_tokens_total 18.0" in text
    assert "local_worker_time_to_first_token_seconds_count 1.0" in text
