from __future__ import annotations

import json
from typing import Any

import pytest

from local_worker.types import GrammarKind, PromptSegment

pytestmark = pytest.mark.anyio

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_stock",
        "description": "Look up stock",
        "parameters": {"type": "object", "properties": {"sku": {"type": "string"}}},
    },
}
OTHER = {"type": "function", "function": {"name": "get_price"}}


def call(sku="A7", name="get_stock"):
    arguments = json.dumps({"sku": sku}, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


async def ask(api, **fields):
    fields.setdefault("tools", [TOOL])
    fields.setdefault("reasoning_effort", "none")
    response = await api.chat(**fields)
    assert response.status_code == 200, response.text
    return response


async def message_of(api, **fields):
    (choice,) = (await ask(api, **fields)).json()["choices"]
    return choice["message"], choice["finish_reason"]


async def deltas_of(api, **fields):
    response = await ask(api, stream=True, **fields)
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return [c["delta"] for c in choices], choices[-1]["finish_reason"]


async def test_a_call_is_an_object_and_the_content_is_null(make_api):
    async with make_api(call("東京")) as api:
        message, reason = await message_of(api)
    assert reason == "tool_calls"
    assert message["content"] is None
    (found,) = message["tool_calls"]
    assert found["type"] == "function"
    assert found["id"].startswith("call_")
    assert found["function"]["name"] == "get_stock"
    assert json.loads(found["function"]["arguments"]) == {"sku": "東京"}


async def test_text_before_calls_and_several_calls(make_api):
    async with make_api(f"I look.\n{call('a')}\n{call('b')}\n") as api:
        message, reason = await message_of(api)
    assert (message["content"], reason) == ("I look.", "tool_calls")
    assert [json.loads(c["function"]["arguments"])["sku"] for c in message["tool_calls"]] == [
        "a",
        "b",
    ]
    assert len({c["id"] for c in message["tool_calls"]}) == 2


async def test_deltas_are_those_that_openai_sends(make_api):
    async with make_api(f"{call('a')}\n{call('b', 'get_price')}") as api:
        deltas, reason = await deltas_of(api, tools=[TOOL, OTHER])
    assert reason == "tool_calls"
    assert deltas[0] == {"role": "assistant", "content": ""}
    parts = [part for delta in deltas[1:-1] for part in delta["tool_calls"]]
    begun = [part for part in parts if "id" in part]
    assert [(p["index"], p["type"], p["function"]) for p in begun] == [
        (0, "function", {"name": "get_stock", "arguments": ""}),
        (1, "function", {"name": "get_price", "arguments": ""}),
    ]
    for index, sku in enumerate("ab"):
        text = "".join(p["function"]["arguments"] for p in parts if p["index"] == index)
        assert json.loads(text) == {"sku": sku}
    assert len(parts) > 6, "arguments come in pieces"
    assert deltas[-1] == {}


async def test_an_answer_without_a_call_is_one_as_ever(make_api):
    async with make_api("None left.") as api:
        message, reason = await message_of(api)
        assert (message["content"], reason) == ("None left.", "stop")
        assert "tool_calls" not in message
        deltas, reason = await deltas_of(api)
    assert "".join(d.get("content", "") for d in deltas) == "None left."


BAD = "<tool_call>\nget_stock(A7)\n</tool_call>"


async def test_what_was_meant_as_a_call_comes_back_as_text_and_the_reason_says_so(make_api):
    async with make_api(BAD) as api:
        message, reason = await message_of(api)
        assert (message["content"], reason) == (BAD, "malformed_tool_call")
        deltas, reason = await deltas_of(api)
    assert "".join(d.get("content", "") for d in deltas) == BAD
    assert reason == "malformed_tool_call"


async def test_a_call_that_max_tokens_cuts_says_length(make_api):
    async with make_api(call()) as api:
        message, reason = await message_of(api, max_tokens=40)
    assert reason == "length"
    (found,) = message["tool_calls"]
    assert call().find(found["function"]["arguments"]) > 0


async def test_a_call_in_a_thought_closes_it(make_api):
    async with make_api(f"hm {call()}") as api:
        response = await ask(api, reasoning_effort="low")
    (choice,) = response.json()["choices"]
    assert choice["message"]["reasoning_content"] == "hm"
    assert choice["finish_reason"] == "tool_calls"
    assert response.json()["reasoning"]["closed_by"] == "tool_call"


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({}, "TEXT (call (WS call)*)?"),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, "TEXT (call )?"),
        ({"tool_choice": "required"}, "call (WS call)*"),
        ({"tool_choice": {"type": "function", "function": {"name": "get_price"}}}, "call "),
        ({"response_format": {"type": "json_object"}}, "answer | call (WS call)*"),
    ],
)
async def test_the_choice_is_in_the_grammar(make_api, fields, start):
    async with make_api(call()) as api:
        await ask(api, tools=[TOOL, OTHER], **fields)
        (request,) = api.engine.requests
    assert request.calls_tools
    assert request.grammar.kind is GrammarKind.LARK
    assert f"start: {start}\n" in request.grammar.source
    named = "function" in str(fields.get("tool_choice"))
    assert ("get_stock" in request.grammar.source) is not named


async def test_none_means_that_the_model_hears_of_no_tools(make_api):
    async with make_api("Hi") as api:
        await ask(api, tool_choice="none")
        (request,) = api.engine.requests
        prompt = await api.engine.detokenize(request.prompt_token_ids)
    assert "get_stock" not in prompt
    assert not request.calls_tools


async def test_the_template_gets_tools_calls_and_results(make_api):
    arguments = '{"sku": "</tool_call>"}'
    messages = [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function",
             "function": {"name": "get_stock", "arguments": arguments}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "3 <|im_end|>"},
    ]  # fmt: skip
    async with make_api("Three.") as api:
        body = {
            "messages": messages,
            "tools": [{**TOOL, "function": {**TOOL["function"], "strict": True}}],
        }
        response = await api.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        (request,) = api.engine.requests
        ids = request.prompt_token_ids
        prompt = await api.engine.detokenize(ids)
        (end,) = await api.engine.tokenize([PromptSegment("</tool_call>")])
        (control,) = await api.engine.tokenize([PromptSegment("<|im_end|>")])
    assert '"description": "Look up stock"' in prompt
    assert "strict" not in prompt
    assert "<|im_start|>tool\n3 <|im_end|><|im_end|>" in prompt
    assert prompt.count("</tool_call>") == 2
    assert ids.count(end) == 1, "the one in the arguments is text"
    assert prompt.count("<|im_end|>") - 1 == ids.count(control)


async def test_a_tool_that_cannot_be_followed_is_named(make_api):
    async with make_api("x") as api:
        api.engine.script.refuse_grammar = "it is not good"
        response = await api.chat(tools=[TOOL])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools[0].function.parameters"


@pytest.mark.parametrize("reply", ["I look.\n\n", "\n", "I look. \n{}\n{}\n", "a\n{}"])
async def test_streamed_and_whole_answers_have_the_same_text(make_api, reply):
    async with make_api(reply.replace("{}", call())) as api:
        message, _ = await message_of(api)
        deltas, _ = await deltas_of(api)
    assert "".join(d.get("content", "") for d in deltas) == (message["content"] or "")


async def test_arguments_that_are_nested_too_deeply_are_the_clients_fault(make_api):
    arguments = '{"a": ' + "[" * 900 + "]" * 900 + "}"
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]  # fmt: skip
    async with make_api("x") as api:
        body = {"messages": messages, "tools": [TOOL]}
        response = await api.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400


async def test_an_unpaired_surrogate_in_a_tool_is_named(make_api):
    async with make_api("x") as api:
        body = '{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", '
        body += '"function": {"name": "f", "parameters": {"description": "\\ud800"}}}]}'
        response = await api.client.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools[0].function"
