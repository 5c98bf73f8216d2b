from __future__ import annotations

import pytest


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("demo_server", marks=pytest.mark.llama),
        pytest.param("vllm_server", marks=[pytest.mark.vllm, pytest.mark.timeout(400)]),
    ],
    ids=["llama", "vllm"],
)
def api_url(request):
    """Of a real server on the embedded model, with either engine."""
    url: str = request.getfixturevalue(request.param).url
    return f"{url}/v1"
