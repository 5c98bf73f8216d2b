from __future__ import annotations

import pytest

from local_worker.api.model import answer_headers, self_test
from local_worker.catalog.load import find, load
from local_worker.engines.fake import FakeEngine, Script

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("demo", ()),
        ("gemma-4-26b", ()),
        ("qwen3.6-27b", ()),
        ("mistral-small-4", ()),
        (
            "gpt-oss-20b",
            (
                "<|start|>assistant<|channel|>final<|message|>",
                "<|channel|>final<|message|>",
            ),
        ),
    ],
)
async def test_answer_headers_of_the_families(name, headers):
    spec = find(load(), name).thinking
    assert spec is not None
    assert answer_headers(spec) == headers


async def test_the_self_test_passes_where_budgets_hold(make_api):
    async with make_api() as api:
        assert api.state.loaded.self_test.problem is None
        assert api.state.loaded.ready


@pytest.mark.parametrize(("used", "problem"), [(9, "under a budget of 8"), (3, "was not closed")])
async def test_the_self_test_sees_a_budget_that_does_not_hold(make_api, used, problem):
    class Unbounded(FakeEngine):
        """Ignores the thinking part of a request, as an engine without budgets would."""

        async def generate(self, request):
            async for output in super().generate(request):
                object.__setattr__(output, "num_reasoning_tokens", used)
                if output.finish is not None and used == 3:
                    object.__setattr__(output.finish, "closed_by", "max_tokens")
                yield output

    async with make_api() as api:
        engine = Unbounded(Script())
        await engine.start()
        outcome = await self_test(engine, api.state.loaded)
    assert problem in (outcome.problem or "")


async def test_the_self_test_sees_delimiters_that_are_no_tokens(make_api):
    class Ignorant(FakeEngine):
        async def tokenize(self, segments, *, add_special=False):
            return tuple(b for segment in segments for b in segment.text.encode())

    async with make_api() as api:
        engine = Ignorant(Script())
        await engine.start()
        outcome = await self_test(engine, api.state.loaded)
    assert "does not know the delimiter" in (outcome.problem or "")
