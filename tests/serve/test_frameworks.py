"""What people build agents with, against a real server on the embedded model."""

from __future__ import annotations

from typing import Any

import instructor
import openai
import pydantic
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

ORDER = "Extract name, quantity and day as JSON.\nOn Friday Anna Berg from Oslo ordered 12 lamps."


class Order(pydantic.BaseModel):
    """An order."""

    name: str
    quantity: int = pydantic.Field(ge=0, le=999)
    day: str


@tool
def get_stock(item: str) -> str:
    """The stock of an item."""
    return f'{{"stock": {len(item)}}}'


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def test_instructor_gets_an_object(api_url, mode):
    with openai.OpenAI(base_url=api_url, api_key="none", max_retries=0) as client:
        order = instructor.from_openai(client, mode=mode).chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": ORDER}],
            response_model=Order,
            temperature=0,
            reasoning_effort="none",
            max_retries=0,
        )
    assert isinstance(order, Order)


@pytest.fixture
def langchain(api_url):
    return ChatOpenAI(
        base_url=api_url, api_key="none", model="demo", temperature=0, reasoning_effort="none",
        max_retries=0,
    )  # fmt: skip


def test_langchain_calls_a_tool_and_goes_on(langchain):
    bound = langchain.bind_tools([get_stock])
    messages = [HumanMessage("How many lamps are in stock?")]
    answer = bound.invoke(messages)
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_stock", {"item": "lamps"})
    result = get_stock.invoke(call)
    assert isinstance(result, ToolMessage)
    final = bound.invoke([*messages, answer, result])
    assert not final.tool_calls
    assert "lamps" in final.content


def test_langchain_puts_streamed_calls_together(langchain):
    whole: Any = None
    for chunk in langchain.bind_tools([get_stock]).stream("How many cups are in stock?"):
        whole = chunk if whole is None else whole + chunk
    assert [c["args"] for c in whole.tool_calls] == [{"item": "cups"}]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_an_object(langchain, method):
    found = langchain.with_structured_output(Order, method=method).invoke(ORDER)
    assert isinstance(found, Order)
