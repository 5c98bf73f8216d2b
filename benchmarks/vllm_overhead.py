"""local-worker over vLLM against vLLM's own OpenAI server: the same engine, two front ends.

    .venv-vllm/bin/python benchmarks/vllm_overhead.py [--model FOLDER] [--pairs N]

Both servers load the same folder with the same engine arguments and environment and stay up; in
every pair each of them gets the same streamed completions, one side first in every other pair. What
counts is the ratio within a pair: requests/s (ours over theirs) and the median time to first token
(theirs over ours), so that above 1 is in our favour in both. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import server_at
from load import Load, Measured, measure

from local_worker.demo import gguf_path
from local_worker.engines.vllm.config import VllmConfig
from local_worker.engines.vllm.engine import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 300.0
ARGS: dict[str, Any] = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "block_size": 32,
    "kv_cache_memory_bytes": 64 << 20,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides in one turn each."""

    concurrency: int
    ours: Measured
    theirs: Measured

    @property
    def rate(self) -> float:
        """Ours over theirs."""
        return self.ours.rate / self.theirs.rate

    @property
    def ttft(self) -> float:
        """Theirs over ours."""
        return self.theirs.ttft / self.ours.ttft


@contextlib.contextmanager
def vllm_server(config: VllmConfig) -> Iterator[str]:
    """VLLM's own server, with what the worker process of ours would get."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", config.model_path, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", str(config.max_model_len)]
    command += ["--max-num-seqs", str(config.max_num_seqs), "--generation-config", "vllm"]
    for name, value in config.engine_args.items():
        option = "--" + name.replace("_", "-")
        command += [option] if value is True else [option, str(value)]
    with tempfile.TemporaryFile() as log:
        env = {**os.environ, **environment(config)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log.fileno())
            yield url
        finally:
            os.killpg(process.pid, 9)
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url + "/health", trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    tail = os.pread(log, 1 << 20, 0).decode(errors="replace")[-3000:]
    raise SystemExit(f"vLLM's server did not start:\n{tail}")


async def compare(ours: str, theirs: str, model: str, load: Load, index: int) -> Pair:
    """Both sides with the same prompts; ours first in every other pair."""
    sides = [(ours, "demo"), (theirs, model)]
    order = (0, 1) if index % 2 == 0 else (1, 0)
    found: dict[int, Measured] = {}
    for side in order:
        url, name = sides[side]
        found[side] = await measure(url, name, load, seed=index)
    return Pair(load.concurrency, found[0], found[1])


def show(pairs: list[Pair]) -> None:
    """A row for each concurrency: medians, and the spread of the ratios."""
    names = ("concurrent", "requests/s, ours", "vLLM's", "ratio", "TTFT, ours", "vLLM's", "ratio")
    print(f"| {' | '.join(names)} |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for concurrency in sorted({pair.concurrency for pair in pairs}):
        some = [pair for pair in pairs if pair.concurrency == concurrency]
        rates, ttfts = [p.rate for p in some], [p.ttft for p in some]
        median = statistics.median
        print(
            f"| {concurrency} | {median(p.ours.rate for p in some):.2f} "
            f"| {median(p.theirs.rate for p in some):.2f} "
            f"| {median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f}) "
            f"| {1000 * median(p.ours.ttft for p in some):.0f} ms "
            f"| {1000 * median(p.theirs.ttft for p in some):.0f} ms "
            f"| {median(ttfts):.2f} ({min(ttfts):.2f} to {max(ttfts):.2f}) |"
        )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompt-words", type=int, default=60)
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    folder = gguf_path().parent
    config = VllmConfig(str(folder), 2048, 32, engine_args=ARGS)
    given = [f"--engine-arg={name}={json.dumps(value)}" for name, value in ARGS.items()]
    command = ["--engine", "vllm", "--context", "2048", "--max-num-seqs", "32", *given]
    pairs: list[Pair] = []
    with server_at(None, *command) as ours, vllm_server(config) as theirs:
        for concurrency in options.concurrency:
            requests = max(12, 6 * concurrency)
            load = Load(concurrency, requests, options.prompt_words, options.max_tokens)
            asyncio.run(compare(ours, theirs, str(folder), load, -1))  # warms both up
            for index in range(options.pairs):
                pairs.append(asyncio.run(compare(ours, theirs, str(folder), load, index)))
                print(f"{concurrency}: {pairs[-1]}", file=sys.stderr)
    show(pairs)
    print(json.dumps({"pairs": [asdict(pair) for pair in pairs]}))


if __name__ == "__main__":
    main()
