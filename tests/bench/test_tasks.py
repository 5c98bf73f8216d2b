from __future__ import annotations

import json

import httpx
import pytest

from local_worker.bench import tasks
from local_worker.bench.peers import Target
from local_worker.bench.suite import read_suite
from local_worker.bench.tasks import Plan, Results, run
from local_worker.errors import BenchError, ConfigError

pytestmark = pytest.mark.anyio

SUITE = read_suite(
    """
name: sums
about: two sums
bar: 1.0
max_tokens: 50
tasks:
  - {id: a, ask: '1+1?', check: {kind: number, value: 2}}
  - {id: b, ask: '1+2?', check: {kind: number, value: 3}}
""",
    "sums.yaml",
)
TARGET = Target("server", "http://server", "m", "key")


@pytest.fixture
def server(monkeypatch):
    """Answers 2 to everything; statuses to give first, and what was asked."""

    class Server:
        def __init__(self):
            self.asked, self.keys, self.statuses, self.answer = [], [], [], None

        async def handle(self, request):
            body = json.loads(request.content)
            self.asked.append(body)
            self.keys.append(request.headers["authorization"])
            status = self.statuses.pop(0) if self.statuses else 200
            answer = self.answer or {
                "choices": [{"message": {"content": "It is 2."}, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 7,
                    "completion_tokens_details": {"reasoning_tokens": 4},
                    "router_tokens": 3,
                },
                "reasoning": {"effort": "low"},
            }
            return httpx.Response(status, json=answer)

    server = Server()
    client = httpx.AsyncClient
    monkeypatch.setattr(
        httpx,
        "AsyncClient",
        lambda base_url, headers, **_: client(
            base_url=base_url, headers=headers, transport=httpx.MockTransport(server.handle)
        ),
    )
    monkeypatch.setattr(tasks, "RETRY_SECONDS", 0.0)
    return server


async def answers(efforts=("low", "auto"), *, path=None, target=TARGET, **options):
    plan = Plan(SUITE, efforts, 1, **options)
    results = Results(path, plan, target)
    await run(target, plan, results, lambda _done, _total: None)
    return results.answers


async def test_every_task_is_asked_at_every_effort_and_judged(server):
    found = await answers()
    assert [(a.task, a.effort, a.right) for a in found] == [
        ("a", "low", True), ("a", "auto", True), ("b", "auto", False), ("b", "low", False),
    ]  # fmt: skip
    keys = [body.get("prompt_cache_key") for body in server.asked]
    assert keys[0] is keys[3] is None
    assert None is not keys[1] != keys[2], "each time it is asked anew"
    assert server.asked[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "1+1?"}],
        "reasoning_effort": "low",
        "max_completion_tokens": 50,
    }
    assert server.keys == ["Bearer key"] * 4
    last = found[-1]
    assert (last.chosen, last.prompt_tokens, last.output_tokens) == ("low", 9, 7)
    assert (last.thinking_tokens, last.router_tokens, last.retries) == (4, 3, 0)


async def test_a_busy_server_is_asked_again_and_that_is_counted(server):
    server.statuses = [503, 429]
    assert (await answers(("low",)))[0].retries == 2


async def test_a_server_that_stays_busy_or_refuses_ends_the_run(server):
    server.statuses = [503] * 9
    with pytest.raises(BenchError, match="503"):
        await answers()
    server.statuses = [400] * 9
    server.asked.clear()
    with pytest.raises(BenchError, match=r"task \w: 400"):
        await answers()
    asked = [str(body) for body in server.asked]
    assert len(asked) == len(set(asked)), "what is refused is not asked again"


@pytest.mark.parametrize("answer", [{"choices": []}, ["x"], {"choices": [{"message": None}]}])
async def test_what_is_no_completion_ends_the_run(server, answer):
    server.answer = answer
    with pytest.raises(BenchError, match="not an OpenAI"):
        await answers()


async def test_a_run_that_was_stopped_goes_on(server, tmp_path):
    path = tmp_path / "answers.jsonl"
    server.statuses = [200, 200, 400, 400]
    with pytest.raises(BenchError):
        await answers(path=path)
    with path.open("a") as file:
        file.write('{"task": "b", "eff')  # killed in the middle of a line
    server.asked.clear()
    found = await answers(path=path)
    assert [(a.task, a.effort) for a in found] == [
        ("a", "low"), ("a", "auto"), ("b", "auto"), ("b", "low"),
    ]  # fmt: skip
    assert len(server.asked) == 2, "what was answered is not asked again"
    assert await answers(path=path) == found
    assert len(await answers(("low", "auto", "none"), path=path)) == 6


async def test_answers_to_something_else_are_not_mixed_in(server, tmp_path):
    path = tmp_path / "answers.jsonl"
    await answers(path=path)
    for wrong in ({"target": Target("s", "http://server", "other", "key")}, {"temperature": 1.0}):
        with pytest.raises(ConfigError, match="another suite"):
            await answers(path=path, **wrong)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="does not hold answers"):
        await answers(path=path)
    with pytest.raises(ConfigError, match="Is a directory"):
        await answers(path=tmp_path)
    assert len(server.asked) == 4
