from __future__ import annotations

import asyncio
import re
import sqlite3

import pytest

from local_worker.config import ServerConfig
from local_worker.economics.ledger import Ledger
from tests.api.test_chat import events

pytestmark = pytest.mark.anyio


def counted(api, name):
    text = api.state.metrics.text().decode()
    return sum(
        float(v)
        for v in re.findall(rf"^local_worker_{name}_total{{?.*}}? (\S+)$", text, re.MULTILINE)
    )


async def test_a_response_tells_its_cost_where_it_is_asked_to(make_api):
    async with make_api() as api:
        silent = (await api.chat()).json()["usage"]
        usage = (await api.chat(include_cost=True)).json()["usage"]
    assert not {"cost", "energy_joules"} & set(silent)
    details = usage["cost_details"]
    assert usage["energy_joules"] > 0
    assert usage["cost"] == pytest.approx(
        details["electricity"] + details["idle_electricity"] + details["hardware"]
    )
    assert details["energy_source"] == "estimated from 100 W"
    assert usage["energy_joules"] == pytest.approx(100.0 * details["machine_seconds"])


async def test_the_server_can_tell_it_always_unless_a_request_says_no(make_api):
    async with make_api(config=ServerConfig(include_cost=True)) as api:
        assert "cost" in (await api.chat()).json()["usage"]
        assert "cost" not in (await api.chat(include_cost=False)).json()["usage"]
        chunks, _ = events((await api.chat(stream=True)).text)
        assert chunks[-1]["usage"]["cost"] > 0
        chunks, _ = events((await api.chat(stream=True, include_cost=False)).text)
        assert chunks[-1]["choices"]


async def test_a_stream_that_wants_its_cost_ends_with_its_usage(make_api):
    async with make_api() as api:
        chunks, done = events((await api.chat(stream=True, include_cost=True)).text)
        assert done
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["cost"] > 0
        body = {"prompt": "a", "stream": True, "include_cost": True}
        chunks, _ = events((await api.client.post("/v1/completions", json=body)).text)
        assert chunks[-1]["usage"]["energy_joules"] > 0


async def test_keys_are_named_only_where_the_server_asks_for_them(make_api, tmp_path):
    path = tmp_path / "ledger.sqlite3"
    async with make_api(ledger=Ledger(path, 30)) as api:
        api.client.headers["authorization"] = "Bearer anything"
        await api.chat()
        api.state.books.shut()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT key, model FROM requests").fetchall() == [
            ("", "scripted")
        ]


async def test_nonsense_is_refused(make_api):
    async with make_api() as api:
        response = await api.chat(include_cost="yes")
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "include_cost"


async def test_every_request_has_one_row_and_is_counted_once(make_api, tmp_path):
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger(path, 30)
    async with make_api(ledger=ledger, config=ServerConfig(api_keys=("k1", "k2"))) as api:
        api.client.headers["authorization"] = "Bearer k1"
        await asyncio.gather(*(api.chat(f"Hi {i}", n=1 + i % 2) for i in range(10)))
        await api.chat("streamed", stream=True)
        await api.client.post("/v1/completions", json={"prompt": ["a", "b"], "max_tokens": 3})
        assert (await api.chat("wrong", temperature=99)).status_code == 400
        api.client.headers["authorization"] = "Bearer k2"
        await api.chat("private words", reasoning_effort="low")
        api.state.books.shut()
        assert counted(api, "requests") == 13
        assert counted(api, "ledger_rows") == 13
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM requests").fetchall()
    assert len(rows) == 13
    assert len({row["id"] for row in rows}) == 13
    assert {row["route"] for row in rows} == {"chat/completions", "completions"}
    assert len({row["key"] for row in rows}) == 2
    assert sum(row["choices"] for row in rows) == 5 * 1 + 5 * 2 + 1 + 2 + 1
    assert {row["effort"] for row in rows} == {"medium", "none", "low"}
    assert b"private words" not in path.read_bytes()


async def test_energy_is_in_the_metrics(make_api):
    async with make_api() as api:
        await api.chat()
        api.state.books.settle()
        text = api.state.metrics.text().decode()
    assert re.search(r'local_worker_energy_joules_total{of="attributed"} \d', text)
    assert 'finish_reason="stop"' in text
    assert "estimated from 100 W" in text
