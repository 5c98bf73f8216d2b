"""One stream: tokens/s of local-worker over HTTP against llama-bench on the same file.

    python benchmarks/single_stream.py MODEL.gguf --llama-bench PATH [--our-library]

Answers what the whole server costs a single user: HTTP, two processes, scheduling and sampling,
next to the bare decode loop of llama.cpp. Both sides get the same threads, tokens and load mode. A
large model fits into memory once, so the two take turns, in pairs whose order alternates: start,
warm up, measure REPETITIONS times, stop, then the other one. A pair's figures are medians; the
ratio of a pair is what counts, since a shared machine drifts.

`--our-library` runs llama-bench with the libraries of the installed llama-cpp-python, for a
llama-bench linked against that very build. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from local_worker.probe.backend import threads_for
from local_worker.probe.survey import probe_hardware

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = (
    "river", "stone", "engine", "paper", "window", "garden", "market",
    "signal", "winter", "bridge", "copper", "lantern", "harbour", "meadow",
    "candle", "orchard", "thunder", "village", "compass", "feather",
)  # fmt: skip
PROMPT_WORDS = 12
LOAD_MODES = {"memory": "none", "mmap": "mmap"}
"""local-worker's names to llama-bench's."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What both sides get, and how often."""

    model: Path
    llama_bench: Path
    native_folder: str | None
    threads: int
    tokens: int
    repetitions: int
    load_mode: str
    temperature: float
    start_timeout: float


@dataclass(frozen=True, slots=True)
class Pair:
    """One turn of each side; rates in tokens/s, in the order they were measured."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    first: str
    load: float

    @property
    def ratio(self) -> float:
        """Median of ours over median of theirs."""
        return statistics.median(self.ours) / statistics.median(self.theirs)


class _Server:
    """local-worker as a child process, on a port of its own choice."""

    def __init__(self, setup: Setup) -> None:
        self._process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "local_worker",
                    "serve",
                    "--offline",
                    "--port",
                    "0",
                    "--no-ledger",
                ),
                *("--model", str(setup.model), "--threads", str(setup.threads)),
                *("--load-mode", setup.load_mode),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._ready.wait(setup.start_timeout) or not self.url:
            self.stop()
            raise SystemExit("local-worker did not start:\n" + "\n".join(self.lines))

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip())
            found = re.match(r"ready\s+(\S+)/v1", line)
            if found:
                self.url = found[1]
                self._ready.set()
        self._ready.set()  # it has ended

    def stop(self) -> None:
        """Ends it and waits, so that its memory is free."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def serving(setup: Setup) -> Iterator[_Server]:
    """A running server."""
    server = _Server(setup)
    try:
        yield server
    finally:
        server.stop()


def stream_rate(client: httpx.Client, setup: Setup, tokens: int) -> float:
    """Tokens/s of one streamed completion, from its first token to its last."""
    prompt = " ".join(random.choices(WORDS, k=PROMPT_WORDS))  # noqa: S311 - a fresh one each time
    body = {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": setup.temperature,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    arrivals: list[float] = []
    usage: dict[str, int] = {}
    with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            now = time.perf_counter()
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[len("data: ") :])
            if any(c["text"] or c["finish_reason"] for c in chunk["choices"]):
                arrivals.append(now)
            usage = chunk.get("usage") or usage
    generated = usage["completion_tokens"]
    if generated != tokens or len(arrivals) < 0.9 * tokens:
        print(f"note: {generated} tokens in {len(arrivals)} chunks", file=sys.stderr)
    return (generated - 1) / (arrivals[-1] - arrivals[0])


def measure_ours(setup: Setup) -> tuple[float, ...]:
    """Starts the server, measures, stops it."""
    with serving(setup) as server, httpx.Client(base_url=server.url, timeout=600) as client:
        stream_rate(client, setup, 8)
        return tuple(stream_rate(client, setup, setup.tokens) for _ in range(setup.repetitions))


def measure_theirs(setup: Setup) -> tuple[float, ...]:
    """Runs llama-bench, which warms up by itself."""
    command = [
        *(str(setup.llama_bench), "-m", str(setup.model), "-o", "json", "-p", "0"),
        *("-n", str(setup.tokens), "-r", str(setup.repetitions), "-t", str(setup.threads)),
        *("--load-mode", LOAD_MODES[setup.load_mode]),
    ]
    environment = dict(os.environ)
    if setup.native_folder:
        environment["LD_LIBRARY_PATH"] = setup.native_folder
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"llama-bench failed: {done.stderr.decode(errors='replace')}")
    return tuple(float(rate) for rate in json.loads(done.stdout)[0]["samples_ts"])


def measure_pair(setup: Setup, index: int) -> Pair:
    """Both sides; ours first in every other pair."""
    load = os.getloadavg()[0]
    if index % 2 == 0:
        ours = measure_ours(setup)
        return Pair(ours, measure_theirs(setup), "local-worker", load)
    theirs = measure_theirs(setup)
    return Pair(measure_ours(setup), theirs, "llama-bench", load)


def show(pair: Pair, index: int) -> None:
    """One row of the table."""
    ours, theirs = statistics.median(pair.ours), statistics.median(pair.theirs)
    print(
        f"| {index + 1} | {ours:.2f} ({min(pair.ours):.2f} to {max(pair.ours):.2f}) "
        f"| {theirs:.2f} ({min(pair.theirs):.2f} to {max(pair.theirs):.2f}) "
        f"| {pair.ratio:.3f} | {pair.first} | {pair.load:.1f} |",
        flush=True,
    )


def read_arguments() -> tuple[Setup, int]:
    """The setup and the number of pairs."""
    parser = argparse.ArgumentParser(description="one stream: local-worker against llama-bench")
    add = parser.add_argument
    add("model", type=Path)
    add("--llama-bench", type=Path, required=True)
    add("--our-library", action="store_true", help="run it with llama-cpp-python's libraries")
    add("--pairs", type=int, default=5)
    add("--tokens", type=int, default=64)
    add("--repetitions", type=int, default=3)
    add("--threads", type=int, default=None, help="default: what local-worker itself would take")
    add("--load-mode", choices=LOAD_MODES, default="memory")
    add("--temperature", type=float, default=0.0)
    add("--start-timeout", type=float, default=900.0)
    options = parser.parse_args()
    library = None
    if options.our_library:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            parser.error("llama-cpp-python is not installed")
        library = str(Path(spec.origin).parent / "lib")
    setup = Setup(
        model=options.model,
        llama_bench=options.llama_bench,
        native_folder=library,
        threads=options.threads or threads_for(probe_hardware().cpu),
        tokens=options.tokens,
        repetitions=options.repetitions,
        load_mode=options.load_mode,
        temperature=options.temperature,
        start_timeout=options.start_timeout,
    )
    return setup, options.pairs


def main() -> None:
    """Measures and prints."""
    setup, count = read_arguments()
    print("| pair | local-worker | llama-bench | ratio | first | load before |")
    print("|---|---|---|---|---|---|", flush=True)
    pairs = []
    for index in range(count):
        pairs.append(measure_pair(setup, index))
        show(pairs[-1], index)
    ratios = sorted(pair.ratio for pair in pairs)
    summary = {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]}
    print("\nratio: " + ", ".join(f"{name} {value:.3f}" for name, value in summary.items()))
    print(
        json.dumps(
            {
                "model": setup.model.name,
                "threads": setup.threads,
                "tokens": setup.tokens,
                "load_mode": setup.load_mode,
                "temperature": setup.temperature,
                "ratio": {name: round(value, 4) for name, value in summary.items()},
                "pairs": [asdict(pair) for pair in pairs],
            }
        )
    )


if __name__ == "__main__":
    main()
