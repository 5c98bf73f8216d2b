"""Whatever is wrong with a request: 4xx, OpenAI's shape, the field's name; the server goes on."""

from __future__ import annotations

import pytest

from local_worker.config import ServerConfig

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "Hi"}]


def assert_error(response, status, param, words):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert words in error["message"]


def tool(name, parameters=None):
    return {"type": "function", "function": {"name": name, "parameters": parameters or {}}}


def named(name):
    return {"type": "function", "function": {"name": name}}


def called(arguments):
    return {"id": "c", "type": "function", "function": {"name": "a", "arguments": arguments}}


CALL = called("{}")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": None}, "messages", "required"),
        ({"messages": "Hi"}, "messages", "list"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role", "required"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "string"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages[0].role", "'system'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "a"}]},
         "messages[0].tool_call_id", "no message before"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "a"}]},
         "messages[0].tool_call_id", "role 'tool'"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "role 'tool'"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
         "messages[0].tool_calls", "role 'assistant'"),
        ({"messages": [{"role": "assistant", "tool_calls": [called("{")]}]},
         "messages[0].tool_calls[0].function.arguments", "not valid JSON"),
        ({"messages": [{"role": "assistant", "tool_calls": [called("[1]")]}]},
         "messages[0].tool_calls[0].function.arguments", "a JSON object"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "function"}]}]},
         "messages[0].tool_calls[0].function", "required"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "required"),
        ({"tools": [{"type": "web"}]}, "tools[0].type", "function"),
        ({"tools": [tool("a b")]}, "tools[0].function.name", "letters"),
        ({"tools": [tool("")]}, "tools[0].function.name", "letters"),
        ({"tools": [tool("a"), tool("b"), tool("a")]}, "tools[2].function.name", "another tool"),
        ({"tools": [tool("a", {"type": "string"})]}, "tools[0].function.parameters.type", "object"),
        ({"tools": [tool(f"a{i}") for i in range(129)]}, "tools", "at most 128"),
        ({"tools": [tool("a")], "tool_choice": named("b")}, "tool_choice.function.name",
         "none of the tools: a"),
        ({"tools": [tool("a")], "tool_choice": {"type": "function"}}, "tool_choice", "'auto'"),
        ({"tools": [tool("a")], "tool_choice": "always"}, "tool_choice", "auto"),
        ({"tool_choice": named("b")}, "tool_choice", "needs 'tools'"),
        ({"tools": [tool("a")], "min_tokens": 3}, "min_tokens", "contradict"),
        ({"tools": [tool("a")], "guided_regex": "a"}, "guided_regex", "a JSON schema can"),
        ({"tools": [tool("a", {"properties": {"x" * 300_000: {}}})]}, "tools", "at most"),
        ({"functions": [{"name": "a"}]}, "functions", "'tools'"),
        ({"messages": [{"role": "user", "content": "RAISE"}]}, "messages", "told to"),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]},
            "messages[0].content[0].image_url", "no URL is ever fetched",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages[0].content[0].type", "only text"),
        ({"model": "gpt-7"}, "model", "'scripted'"),
        ({"model": 7}, "model", "string"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"temperature": "0.5"}, "temperature", "number"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": 1e300}, "temperature", "less than or equal to 2"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_k": -2}, "top_k", "-1"),
        ({"min_p": 2}, "min_p", "less"),
        ({"max_tokens": 0}, "max_tokens", "greater"),
        ({"max_tokens": -1}, "max_tokens", "greater"),
        ({"max_tokens": 10**30}, "max_tokens", "less than"),
        ({"max_tokens": 1.5}, "max_tokens", "integer"),
        ({"max_tokens": True}, "max_tokens", "integer"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "different things"),
        ({"max_tokens": 5000}, "max_tokens", "at most"),
        ({"min_tokens": 50, "max_tokens": 5}, "min_tokens", "more than"),
        ({"n": 0}, "n", "greater"),
        ({"n": 129}, "n", "at most 128"),
        ({"stop": ""}, "stop", "empty"),
        ({"stop": ["a"] * 65}, "stop", "at most 64"),
        ({"stop": [1]}, "stop[0]", "string"),
        ({"seed": 2**63}, "seed", "less"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "no token id"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "no token id"),
        ({"logit_bias": {"7": 101}}, "logit_bias", "between"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"presence_penalty": 3}, "presence_penalty", "less"),
        ({"reasoning_effort": "hgih"}, "reasoning_effort", "none, minimal, low"),
        ({"reasoning_effort": "auto", "enable_thinking": False}, "reasoning_effort", "send one"),
        ({"metadata": 3}, "metadata", "dictionary"),
        ({"prompt_cache_key": 3}, "prompt_cache_key", "string"),
        ({"reasoning_effort": 3}, "reasoning_effort", "string"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort", "unknown effort"),
        ({"reasoning": {"efort": "low"}}, "reasoning.efort", "not known"),
        ({"reasoning_budget_tokens": -2}, "reasoning_budget_tokens", "-1 for no"),
        ({"reasoning_budget_tokens": 2001}, "reasoning_budget_tokens", "ceiling of 2000"),
        ({"reasoning_budget_tokens": 5, "thinking_budget": 6}, "thinking_budget", "different"),
        ({"reasoning_effort": "low", "enable_thinking": False}, "reasoning_effort", "one of the"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "set by"),
        ({"chat_template_kwargs": {"enable_thinking": "no"}},
         "chat_template_kwargs.enable_thinking", "true or false"),
        ({"reasoning_effort": "none", "enable_thinking": True}, "reasoning_effort", "one of the"),
        ({"thinking": {"type": "disabled", "budget_tokens": 50}}, "thinking.budget_tokens", "one"),
        ({"thinking": {"type": "enabled"}, "enable_thinking": False}, "thinking.type", "different"),
        ({"chat_template_kwargs": {"self": 1, "reasoning_effort": "hgih"}},
         "chat_template_kwargs.reasoning_effort", "unknown effort"),
        ({"chat_template_kwargs": {"thinking_budget": 5}}, "chat_template_kwargs.thinking_budget",
         "set by"),
        ({"logit_bias": {"1" * 5000: 1}}, "logit_bias", "no token id"),
        ({"logit_bias": {"064": 1}}, "logit_bias", "no token id"),
        ({"stop": ["x" * 1025]}, "stop", "1024"),
        ({"repeat_penalty": 1e-300}, "repeat_penalty", "0.01"),
        ({"messages": [{"role": "assistant", "content": "a", "reasoning": "b",
                        "reasoning_content": "c"}]}, "messages[0].reasoning", "different"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
        ({"tool_choice": "required"}, "tool_choice", "needs 'tools'"),
        ({"response_format": {"type": "json"}}, "response_format.type", "json_object"),
        ({"temprature": 1}, "temprature", "not known"),
        ({"stream_options": {"include_usages": True}}, "stream_options.include_usages", "not"),
    ],
)  # fmt: skip
async def test_chat_fields(make_api, fields, param, words):
    config = ServerConfig(max_thinking_tokens=2000)
    async with make_api(config=config) as api:
        body = {"messages": HI, **fields}
        response = await api.client.post("/v1/chat/completions", json=body)
        status = 404 if param == "model" and fields["model"] == "gpt-7" else 400
        assert_error(response, status, param, words)
        assert not api.engine.requests
        assert (await api.chat()).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"n": None, "stream": None, "stream_options": {"include_usage": None}, "seed": None},
        {"chat_template_kwargs": {"self": 1, "enable_thinking": True}},
        {"user": "me"}, {"metadata": {"a": "b"}}, {"store": True}, {"service_tier": "auto"},
        {"tools": []}, {"tool_choice": "auto"}, {"response_format": {"type": "text"}},
        {"parallel_tool_calls": False}, {"suffix": None}, {"modalities": ["text"]},
        {"messages": [{"role": "developer", "content": "x", "name": "y"}, *HI]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        {"messages": [{"role": "assistant", "content": "x", "refusal": None}, *HI]},
    ],
)  # fmt: skip
async def test_harmless_fields_are_taken(make_api, fields):
    async with make_api() as api:
        response = await api.client.post("/v1/chat/completions", json={"messages": HI, **fields})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"), (b"{", "not valid JSON"), (b"[1]", "JSON object"),
        (b'{"messages": NaN}', "not valid JSON"), (b"\xff\xfe", "not valid JSON"),
        (b'{"messages": ' + b"[" * 5000, "not valid JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
async def test_bodies_that_are_no_json(make_api, content, words, path):
    async with make_api() as api:
        response = await api.client.post(path, content=content)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "prompt", "required"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": [[]]}, "prompt", "empty"),
        ({"prompt": ["a", ""]}, "prompt", "empty"),
        ({"prompt": [99999]}, "prompt", "no token id"),
        ({"prompt": [-1]}, "prompt", "no token id"),
        ({"prompt": ["a", 1]}, "prompt[1]", "string"),
        ({"prompt": "x" * 5000}, "prompt", "exceed the context"),
        ({"prompt": "x", "max_tokens": 4096}, "max_tokens", "exceed the context"),
        ({"prompt": ["a"] * 129}, "prompt", "at most 128"),
        ({"prompt": ["a", "b"], "n": 65}, "n", "130 sequences"),
        ({"prompt": "x", "best_of": 2}, "best_of", "use 'n'"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "filling in"),
        ({"prompt": "x", "echo": True, "logprobs": 1}, "echo", "together"),
        ({"prompt": "x", "reasoning_effort": "low"}, "reasoning_effort", "not known"),
    ],
)  # fmt: skip
async def test_completion_fields(make_api, fields, param, words):
    async with make_api() as api:
        response = await api.client.post("/v1/completions", json=fields)
        assert_error(response, 400, param, words)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": "a", "content": "b"}, "prompt"),
        ("/tokenize", {"prompt": 1}, "prompt"), ("/tokenize", {"prompt": "a", "x": 1}, "x"),
        ("/detokenize", {}, "tokens"), ("/detokenize", {"tokens": [99999]}, "tokens"),
        ("/detokenize", {"tokens": [10**30]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)  # fmt: skip
async def test_the_small_endpoints(make_api, path, body, param):
    async with make_api() as api:
        assert_error(await api.client.post(path, json=body), 400, param, "")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (r'{"messages": [{"role": "user", "content": "a\ud800"}]}', "messages[0].content"),
        (r'{"messages": [{"role": "user", "content": "a"}], "stop": "\udfff"}', "stop"),
        (r'{"messages": [{"role": "user", "content": "a"}], "\ud800": 1}', None),
        (
            r'{"messages": [{"role": "user", "content": "a"}], "guided_regex": "\ud800"}',
            "guided_regex",
        ),
    ],
)
async def test_unpaired_surrogates(make_api, body, param):
    async with make_api() as api:
        response = await api.client.post("/v1/chat/completions", content=body)
        assert_error(response, 400, param, "")
        assert (await api.chat()).status_code == 200


async def test_a_prompt_longer_than_the_context(make_api):
    async with make_api() as api:
        response = await api.chat("x" * 5000)
    assert_error(response, 400, "messages", "shorten the prompt")
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_too_many_messages(make_api):
    async with make_api(config=ServerConfig(max_messages=3)) as api:
        response = await api.client.post("/v1/chat/completions", json={"messages": HI * 4})
    assert_error(response, 400, "messages", "at most 3")


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit(make_api, chunked):
    async def chunks():
        for _ in range(30):
            yield b"x" * 100

    async with make_api(config=ServerConfig(max_body_bytes=1000)) as api:
        content = chunks() if chunked else b"x" * 3000
        response = await api.client.post("/v1/chat/completions", content=content)
    assert_error(response, 413, None, "1,000 bytes")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/chat/completions", b'{"messages":[' + b"1," * 200_000 + b"1]}"),
        ("/v1/completions", b'{"prompt":[' + b'1,"",' * 100_000 + b"1]}"),
        ("/detokenize", b'{"tokens":[' + b'"",' * 200_000 + b"1]}"),
    ],
)
async def test_many_wrong_items_cost_one_error(make_api, path, content):
    async with make_api() as api:
        response = await api.client.post(path, content=content)
    assert response.status_code == 400
    assert len(response.content) < 3000


async def test_a_long_wrong_value_is_not_echoed_whole(make_api):
    async with make_api() as api:
        for field in ("model", "reasoning_effort", "x" * 100_000):
            response = await api.chat(**{field: "y" * 100_000})
            assert response.status_code in (400, 404)
            assert len(response.content) < 5000


async def test_a_text_that_no_context_could_hold_is_not_tokenized(make_api):
    async with make_api() as api:
        for path, body in (
            ("/tokenize", {"prompt": "x" * 60_000}),
            ("/v1/completions", {"prompt": "x" * 60_000}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 60_000}]}),
        ):
            response = await api.client.post(path, json=body)
            assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_paths_and_methods_that_do_not_exist(make_api):
    async with make_api() as api:
        assert (await api.client.get("/v1/nothing")).json()["error"]["code"] == "404"
        assert (await api.client.post("/v1/chat/completions/")).json()["error"]["code"] == "404"
        assert (await api.client.get("/v1/chat/completions")).json()["error"]["code"] == "405"


async def test_what_the_engine_cannot_do_is_refused_by_name(make_api):
    limits = (("min_p", "it has none"), ("logit_bias", "it has none"))
    async with make_api(limits=limits) as api:
        for field, value in (("min_p", 0.1), ("logit_bias", {"5": 1.0})):
            response = await api.chat(**{field: value})
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, field)
            assert "fake: it has none" in error["message"]
        assert (await api.chat(min_p=0, logit_bias={})).status_code == 200


async def test_more_biases_than_an_engine_survives(make_api):
    async with make_api(thinking=None) as api:
        response = await api.chat(logit_bias={str(i): 1.0 for i in range(262)})
        assert response.status_code == 200
        response = await api.chat(logit_bias={str(i): 1.0 for i in range(1025)})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "logit_bias"


async def test_a_form_that_the_engine_cannot_hold_answers_to_names_the_engine(make_api):
    limits = (("structured_outputs", "it follows none"),)
    async with make_api(limits=limits) as api:
        for field, value in (("response_format", {"type": "json_object"}), ("guided_regex", "a")):
            response = await api.chat(**{field: value})
            assert_error(response, 400, field, "fake: it follows none")
        assert (await api.chat(response_format={"type": "text"})).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_broken_grammar_is_refused_before_anything_is_sent(make_api, stream):
    async with make_api() as api:
        api.engine.script.refuse_grammar = "unclosed group"
        response = await api.chat(guided_regex="(", stream=stream)
        assert_error(response, 400, "guided_regex", "unclosed group")
        assert api.engine.requests == []
