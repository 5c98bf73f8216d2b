from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from local_worker.bench.load import run, tokens_per_word
from local_worker.bench.peers import Target
from local_worker.bench.scenario import Function, Intruder, Kind, Scenario
from local_worker.errors import BenchError

pytestmark = pytest.mark.anyio

JOBS = Scenario(
    name="jobs", about="", clients=4, requests=6, shared_tokens=60, own_tokens=8, max_tokens=5
)


@pytest.fixture
def answering():
    """A server that answers everything with the same."""
    servers = []

    def serve(status, body):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return Target("stand-in", f"http://127.0.0.1:{server.server_address[1]}")

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.llama
async def test_a_run_against_a_real_server(demo_server):
    target = Target("ours", demo_server.url)
    words = await tokens_per_word(target)
    assert 1 < words < 10
    found = await run(target, JOBS, 1, words)
    assert found.tokens_per_s == pytest.approx(30 / found.seconds)
    assert found.cached_tokens > 60  # the later ones share what the first has computed
    assert found.ttft_p50 <= found.ttft_p99 <= found.seconds


@pytest.mark.llama
async def test_requests_may_arrive_at_a_rate(demo_server):
    found = await run(
        Target("ours", demo_server.url), JOBS.model_copy(update={"rate": 50.0}), 2, 3.0
    )
    assert found.seconds > 5 / 50


@pytest.mark.llama
async def test_a_long_prompt_among_streams(demo_server):
    changes = {"intruder": Intruder(after=0.01, tokens=300), "max_tokens": 200, "requests": 4}
    found = await run(Target("ours", demo_server.url), JOBS.model_copy(update=changes), 3, 3.0)
    assert found.beside is not None
    assert found.requests_per_s == pytest.approx(4 / found.seconds)


@pytest.mark.llama
async def test_requests_of_several_kinds(demo_server):
    call = Function(
        name="call_back",
        description="Has a customer called.",
        parameters={
            "type": "object",
            "properties": {"is_urgent": {"type": "boolean"}},
            "required": ["is_urgent"],
            "additionalProperties": False,
        },
    )
    kinds = (
        Kind(own_tokens=20, max_tokens=90, tools=(call,)),
        Kind(own_tokens=20, max_tokens=90, json_schema={"type": "boolean"}),
        Kind(own_tokens=20, max_tokens=10, rewrites=True),
    )
    found = await run(
        Target("ours", demo_server.url), JOBS.model_copy(update={"also": kinds}), 4, 3.0
    )
    assert found.requests_per_s == pytest.approx(6 / found.seconds)


EVENTS = b"""data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}

data: {"choices": [{"delta": {"tool_calls": [{"index": 0}]}, "finish_reason": null}]}

data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}

data: [DONE]

"""


async def test_of_a_chat_only_what_has_output_counts(answering):
    found = await run(answering(200, EVENTS), JOBS, 1, 1.0)
    assert found.tokens_per_s == pytest.approx(6 / found.seconds)


async def test_nobody_there():
    with pytest.raises(BenchError, match="ConnectError"):
        await tokens_per_word(Target("gone", "http://127.0.0.1:9"))
    with pytest.raises(BenchError, match="gone at"):
        await run(Target("gone", "http://127.0.0.1:9"), JOBS, 1, 1.0)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"error": {"message": "no"}}', "answered 400"),
        (200, b"data: [DONE]\n\n", "streamed no token"),
        (200, b"data: <html>\n\n", "not an OpenAI stream"),
        (200, b'data: {"error": {"message": "died"}}\n\n', "ended with an error"),
    ],
)
async def test_what_is_no_stream_is_said(answering, status, body, words):
    with pytest.raises(BenchError, match=words):
        await run(answering(status, body), JOBS, 1, 1.0)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"usage": {}}'])
async def test_a_server_that_reports_no_usage_is_refused(answering, body):
    with pytest.raises(BenchError, match="no OpenAI server, or reports no usage"):
        await tokens_per_word(answering(200, body))


@pytest.mark.llama
async def test_neighbours_are_busy_during_the_run_and_gone_after_it(demo_server):
    target, before = Target("ours", demo_server.url), set(psutil.Process().children())
    running = asyncio.create_task(
        run(target, JOBS.model_copy(update={"neighbours": 2, "requests": 40}), 1, 3.0)
    )
    for _ in range(500):
        await asyncio.sleep(0.01)
        if len(found := set(psutil.Process().children()) - before) == 2:
            break
    assert len(found) == 2
    await running
    assert set(psutil.Process().children()) == before
