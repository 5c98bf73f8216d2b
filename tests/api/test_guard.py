from __future__ import annotations

import pytest

from local_worker.config import ServerConfig

pytestmark = pytest.mark.anyio

KEYED = ServerConfig(api_keys=("one", "two"))


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401), ("", 401), ("Bearer", 401), ("Bearer three", 401), ("Basic one", 401),
        ("Bearer one", 200), ("bearer two", 200),
    ],
)  # fmt: skip
async def test_keys(make_api, authorization, status):
    headers = {} if authorization is None else {"Authorization": authorization}
    async with make_api(config=KEYED) as api:
        for path in ("/v1/models", "/metrics"):
            response = await api.client.get(path, headers=headers)
            assert response.status_code == status
        if status == 401:
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"


async def test_health_and_ready_need_no_key(make_api):
    async with make_api(config=KEYED) as api:
        assert (await api.client.get("/health")).status_code == 200
        assert (await api.client.get("/ready")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8000"}, 200), ({"Host": "127.0.0.1"}, 200), ({"Host": "[::1]:1"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "[::1"}, 403), ({"Host": "user@localhost"}, 403), ({"Host": "127.0.0.2:1"}, 200),
        ({"Origin": "http://["}, 403), ({"Origin": "http://localhost.evil"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
    ],
)  # fmt: skip
async def test_without_a_key_only_this_machine_is_answered(make_api, headers, status):
    async with make_api() as api:
        assert (await api.client.get("/v1/models", headers=headers)).status_code == status


async def test_with_a_key_any_host_name_will_do(make_api):
    async with make_api(config=KEYED) as api:
        headers = {"Host": "worker.example", "Authorization": "Bearer one"}
        assert (await api.client.get("/v1/models", headers=headers)).status_code == 200
