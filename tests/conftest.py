from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import httpx
import pytest

from local_worker.demo import gguf_path


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="session")
def demo_gguf():
    path = gguf_path()
    assert path.exists(), "the embedded model belongs to the package"
    return path


class RunningServer:
    """`local-worker serve` as a process of its own, as a user would start it."""

    def __init__(self, *arguments, env=None):
        if "--ledger" not in arguments:  # nor in the books of whoever runs the tests
            arguments = (*arguments, "--no-ledger")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        self.process = subprocess.Popen(
            [sys.executable, "-m", "local_worker", "serve", "--port", "0", *arguments],
            stderr=self._log,
            env={**os.environ, **(env or {})},
        )
        try:
            self.url = self._wait_for("ready    (http://[^/]+)")
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    @property
    def output(self):
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    def _wait_for(self, pattern, timeout=180.0):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if match := re.search(pattern, self.output):
                return match[1]
            # A server that died must not be waited for.
            assert self.process.poll() is None, f"the server ended:\n{self.output}"
            time.sleep(0.05)
        raise AssertionError(f"the server did not get ready:\n{self.output}")

    def client(self, **options):
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def worker_pid(self):
        out = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        ).stdout
        return int(out.split()[0])

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        return self.process.returncode


@pytest.fixture
def start_server():
    servers = []

    def start(*arguments, **options):
        servers.append(RunningServer(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def demo_server():
    """One server on the embedded model for all tests that only ask it things."""
    server = RunningServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def vllm_server():
    """The same model, computed by vLLM's CPU build."""
    server = RunningServer("--engine", "vllm")
    yield server
    server.stop()
