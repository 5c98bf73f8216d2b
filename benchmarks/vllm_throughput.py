"""One model through local-worker over vLLM, from one client to hundreds.

    python benchmarks/vllm_throughput.py --model FOLDER [--concurrency 1 16 64 256]
        [--serve-arg=--engine-arg=load_format=dummy] [--bytes-per-token 7.6e9]

Prints, for each concurrency, output tokens/s, time to first token, time between tokens and, where
NVML counts it, joules per output token. With `--bytes-per-token` (weight bytes that one step of one
sequence reads) and a card whose memory bandwidth NVML tells, the first row says what part of that
bandwidth a single stream reaches. A table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import server_at
from load import Load, Measured, measure

from local_worker.probe.survey import probe_hardware


class Energy:
    """NVML's energy counters of all cards, in joules; None where there are none."""

    def __init__(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
            self._cards = list(handles)
            self._read = pynvml.nvmlDeviceGetTotalEnergyConsumption
            self._total()
        except Exception as error:  # noqa: BLE001 - no driver, no card, no counter: all the same here
            print(f"no energy is counted: {error}", file=sys.stderr)
            self._cards = []

    def _total(self) -> float:
        return float(sum(self._read(card) for card in self._cards)) / 1000

    def read(self) -> float | None:
        """Joules since the driver was loaded."""
        return self._total() if self._cards else None


@dataclass(frozen=True, slots=True)
class Row:
    """One concurrency."""

    concurrency: int
    measured: Measured
    joules_per_token: float | None


def run(url: str, name: str, load: Load, energy: Energy) -> Row:
    """One concurrency, after a warm-up of one round."""
    warm = Load(load.concurrency, load.concurrency, load.prompt_words, min(32, load.max_tokens))
    asyncio.run(measure(url, name, warm, seed=-1))
    before = energy.read()
    found = asyncio.run(measure(url, name, load, seed=load.concurrency))
    after = energy.read()
    joules = None
    if before is not None and after is not None:
        joules = (after - before) / (load.requests * load.max_tokens)
    return Row(load.concurrency, found, joules)


def show(rows: list[Row], bytes_per_token: float | None) -> None:
    """The table, and the share of the bandwidth."""
    names = ("concurrent", "tokens/s", "requests/s", "TTFT", "ITL p50", "ITL p99", "J/token")
    print(f"| {' | '.join(names)} |")
    print("|--:" * len(names) + "|")
    for row in rows:
        m = row.measured
        joules = "not counted" if row.joules_per_token is None else f"{row.joules_per_token:.3f}"
        times = " | ".join(f"{1000 * seconds:.1f} ms" for seconds in (m.ttft, *m.itl))
        print(f"| {row.concurrency} | {m.tokens:.1f} | {m.rate:.2f} | {times} | {joules} |")
    gpus = probe_hardware(measure_bandwidth=False).nvidia.gpus
    bandwidth = gpus[0].memory_bandwidth if gpus else None
    if bytes_per_token and bandwidth and rows[0].concurrency == 1:
        share = rows[0].measured.tokens * bytes_per_token / bandwidth
        print(f"one stream reads {share:.0%} of {bandwidth / 1e9:.0f} GB/s")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="a folder of safetensors")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=4, help="requests for each client")
    parser.add_argument("--prompt-words", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--bytes-per-token", type=float, help="weights one step reads")
    parser.add_argument("--serve-arg", action="append", default=[], help="for `local-worker serve`")
    options = parser.parse_args()
    rows: list[Row] = []
    energy = Energy()
    # Only the speed is wanted: how made-up weights think does not matter.
    arguments = ["--model", str(options.model), "--max-queue", "1024", *options.serve_arg]
    with server_at(None, *arguments, "--allow-unenforced-effort") as url:
        for concurrency in options.concurrency:
            requests = concurrency * options.rounds
            load = Load(concurrency, requests, options.prompt_words, options.max_tokens)
            rows.append(run(url, options.model.resolve().name, load, energy))
            print(rows[-1], file=sys.stderr)
    show(rows, options.bytes_per_token)
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
