"""A server's life as its operator sees it: start, failures, death of the engine, stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time

import httpx
import pytest

from local_worker.cli import main

pytestmark = pytest.mark.llama

LONG = {
    "messages": [{"role": "user", "content": "Add up this invoice.\npens 3x14\ncups 2x9"}],
    "max_tokens": 3000, "ignore_eos": True, "temperature": 0, "stream": True,
}  # fmt: skip
SHORT = {"messages": LONG["messages"], "reasoning_effort": "low", "temperature": 0}


def read_events(lines):
    """All payloads of a stream, and whether it ended as it should."""
    payloads, done = [], False
    for line in lines:
        if line == "data: [DONE]":
            done = True
        elif line:
            payloads.append(json.loads(line.removeprefix("data: ")))
    return payloads, done


def metric(client, name):
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name + " ")).split()[1])


def wait_until(condition, timeout=10.0):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_client_that_leaves_frees_its_sequence(demo_server):
    with demo_server.client() as client:
        with client.stream("POST", "/v1/chat/completions", json=LONG) as response:
            lines = response.iter_lines()
            next(lines)
            assert wait_until(lambda: metric(client, "local_worker_running_sequences") == 1)
        assert wait_until(lambda: metric(client, "local_worker_running_sequences") == 0)
        assert metric(client, "local_worker_kv_cells_used") == 0


def test_a_client_that_leaves_without_streaming_does_so_too(demo_server):
    body = {**LONG, "stream": False}
    with demo_server.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json=body, timeout=0.3)
        assert wait_until(lambda: metric(client, "local_worker_running_sequences") == 0)


def test_the_engine_is_killed_in_the_middle_of_a_stream(start_server):
    server = start_server()
    with server.client() as client:
        with client.stream("POST", "/v1/chat/completions", json=LONG) as response:
            lines = response.iter_lines()
            for _ in range(20):
                next(lines)
            os.kill(server.worker_pid(), signal.SIGKILL)
            rest = [line for line in lines if line]
        assert "the engine ended in the middle" in rest[-1]
        assert wait_until(lambda: client.get("/ready").status_code == 200, timeout=5)
        assert client.post("/v1/chat/completions", json=SHORT).status_code == 200


def test_a_silent_request_survives_the_death_of_the_engine(start_server):
    server = start_server()
    with server.client() as client:
        expected = client.post("/v1/chat/completions", json=SHORT).json()["choices"]
        os.kill(server.worker_pid(), signal.SIGKILL)
        again = client.post("/v1/chat/completions", json=SHORT)
        assert again.json()["choices"] == expected


def test_the_first_signal_lets_running_requests_finish(start_server):
    server = start_server("--drain-seconds", "20")
    with server.client() as client:
        body = {**LONG, "max_tokens": 1200}
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            assert wait_until(lambda: client.get("/ready").status_code == 503)
            refused = client.post("/v1/chat/completions", json=SHORT)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            payloads, done = read_events(lines)
    assert done
    assert payloads[-1]["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(timeout=10) == 0


def test_what_is_left_at_the_deadline_ends_with_an_error_event(start_server):
    server = start_server("--drain-seconds", "0.2")
    with (
        server.client() as client,
        client.stream("POST", "/v1/chat/completions", json=LONG) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        payloads, done = read_events(lines)
    assert not done
    assert "stopping" in payloads[-1]["error"]["message"]
    assert server.process.wait(timeout=10) == 0


def test_the_second_signal_stops_at_once(start_server):
    server = start_server("--drain-seconds", "60")
    with server.client() as client:
        ended = threading.Event()

        def read():
            with contextlib.suppress(httpx.HTTPError):
                client.post("/v1/chat/completions", json={**LONG, "stream": False})
            ended.set()

        threading.Thread(target=read).start()
        assert wait_until(lambda: metric(client, "local_worker_running_sequences") == 1)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        started = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=10) == 0
        assert time.monotonic() - started < 10
        assert ended.wait(5)


def test_nothing_is_left_behind(start_server):
    server = start_server()
    worker = server.worker_pid()
    server.process.kill()
    server.process.wait()

    def gone():
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return True
        return False

    assert wait_until(gone)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "gema-4-26b"], "gemma-4-26b"),
        (["--model", "/nowhere/model.gguf"], "/nowhere/model.gguf"),
        (["--model", "gemma-4-26b", "--offline"], "models pull gemma-4-26b"),
        (["--model", "demo", "--context", "100000"], "4,096"),
        (["--host", "0.0.0.0"], "--api-key"),
        (["--host", "203.0.113.1", "--api-key", "k"], "cannot listen"),
        (["--port", "70000"], "65535"),
        (["--threads", "0"], "--threads"),
    ],
)  # fmt: skip
def test_a_start_that_cannot_be_is_one_line(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_WORKER_HOME", str(tmp_path))
    assert main(["serve", "--port", "0", *arguments]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("local-worker: ")
    assert words in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "too short"), (b"PK\x03\x04" + bytes(100), "not a GGUF"),
        (b"GGUF" + bytes(100), "version"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_model_is_one_line(content, words, capsys, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert main(["serve", "--port", "0", "--model", str(path)]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(path) in message


def test_a_truncated_model_is_one_line(demo_gguf, capsys, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(demo_gguf.read_bytes()[:-1000])
    assert main(["serve", "--port", "0", "--model", str(path)]) == 1
    assert "truncated" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_port_in_use_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
    assert f"port {port} on 127.0.0.1 is in use" in capsys.readouterr().err
