from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.anyio


async def complete(api, **fields):
    return await api.client.post("/v1/completions", json={"prompt": "Once", **fields})


async def test_text_comes_out_as_it_is(make_api):
    async with make_api("a</think>b") as api:
        body = (await complete(api)).json()
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == "a</think>b"
    assert body["usage"]["total_tokens"] == 4 + 4


async def test_the_default_length_is_openais(make_api):
    async with make_api("x" * 50) as api:
        body = (await complete(api)).json()
    assert body["usage"]["completion_tokens"] == 16
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("prompt", ["Once", [79, 110], ["Once", "Twice"], [[79], [110]]])
async def test_every_form_of_prompt(make_api, prompt):
    async with make_api("!") as api:
        body = (await complete(api, prompt=prompt, n=2, echo=True)).json()
    texts = [choice["text"] for choice in body["choices"]]
    expected = {
        "Once": ["Once!"] * 2, "[79, 110]": ["On!"] * 2,
        "['Once', 'Twice']": ["Once!"] * 2 + ["Twice!"] * 2,
        "[[79], [110]]": ["O!"] * 2 + ["n!"] * 2,
    }  # fmt: skip
    assert texts == expected[str(prompt)]


async def test_a_stream(make_api):
    async with make_api("abc") as api:
        response = await complete(
            api, stream=True, stream_options={"include_usage": True}, logprobs=1
        )
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    chunks = [json.loads(line) for line in lines[:-1]]
    assert lines[-1] == "[DONE]"
    assert "".join(c["choices"][0]["text"] for c in chunks if c["choices"]) == "abc"
    offsets = [c["choices"][0]["logprobs"]["text_offset"] for c in chunks[:3]]
    assert offsets == [[0], [1], [2]]
    assert chunks[-1]["usage"]["completion_tokens"] == 4


async def test_logprobs(make_api):
    async with make_api("ab") as api:
        body = (await complete(api, logprobs=1)).json()
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["a", "b"], "token_logprobs": [0.0, 0.0],
        "top_logprobs": [{"a": 0.0}, {"b": 0.0}], "text_offset": [0, 1],
    }  # fmt: skip
