from __future__ import annotations

import sys

import pytest

from local_worker.bench.peers import Started, llama_server
from local_worker.errors import BenchError


def test_a_program_that_is_missing_is_named():
    with pytest.raises(BenchError, match="no program 'llama-nothing'"):
        llama_server("llama-nothing", "m.gguf", slots=None, cells=1)


def test_a_server_that_ends_says_why():
    started = Started("peer", [sys.executable, "-c", "raise SystemExit('no such model')"])
    try:
        with pytest.raises(BenchError, match="peer ended with status 1: no such model"):
            started.wait()
    finally:
        started.stop()


def test_a_server_is_ready_when_it_says_so():
    code = (
        "import http.server as h, sys\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "  def do_GET(self): self.send_response(404 if self.path == '/ready' else 200); "
        "self.end_headers()\n"
        "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()"
    )
    started = Started("peer", [sys.executable, "-c", code, "{port}"])
    started.wait()
    started.check()
    started.stop()
    assert started._process.returncode is not None
