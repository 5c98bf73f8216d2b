from __future__ import annotations

import pytest

from local_worker.api.schemas import ChatBody
from local_worker.api.translate import template_variables
from local_worker.catalog.load import find, load

CATALOG = load()


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "expected"),
    [
        ("demo", "low", True, {"enable_thinking": True}),
        ("demo", "none", False, {"enable_thinking": False}),
        ("gemma-4-26b", "max", True, {"enable_thinking": True}),
        ("mistral-small-4", "none", False, {"reasoning_effort": "none"}),
        ("mistral-small-4", "low", True, {"reasoning_effort": "high"}),
        ("gpt-oss-20b", "minimal", True, {"reasoning_effort": "low"}),
        ("gpt-oss-20b", "xhigh", True, {"reasoning_effort": "high"}),
        ("gpt-oss-20b", "none", False, {"reasoning_effort": "low"}),
        ("qwen3.8-27b", "low", True, {"enable_thinking": True, "reasoning_effort": "low"}),
        ("qwen3.8-27b", "max", True, {"enable_thinking": True, "reasoning_effort": "xhigh"}),
    ],
)
def test_a_template_gets_the_nearest_native_level_and_nothing_it_does_not_know(
    model, effort, thinking, expected
):
    body = ChatBody.model_validate(
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "chat_template_kwargs": {"custom": 1, "enable_thinking": thinking},
        }
    )
    spec = find(CATALOG, model).thinking
    variables = template_variables(body, spec, effort, thinking=thinking)
    assert variables == {"custom": 1, **expected}
