"""`local-worker bench decode`: this model on this machine, without HTTP."""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_worker.bench.decode import BatchedBench, Decoded, Size, cells_of, measure
from local_worker.bench.html import Bar, Chart, Section, page
from local_worker.bench.report import cell, write, write_json
from local_worker.bench.stats import ratio
from local_worker.cli import bench_common, serve
from local_worker.cli.bench_common import in_turns, show
from local_worker.errors import BenchError, ConfigError, EngineError, first_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from local_worker.serve.resolved import Resolved

BATCHED_BENCH = "llama-batched-bench"
SIZES = (1, 2, 4, 6, 7, 8, 15, 16, 32)
DEPTHS = (0, 256)
STEPS = 48

Runs = dict[Size, dict[str, list[Decoded]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench decode`."""
    add = parser.add_argument
    add("--model", required=True, help="a name, or a GGUF file")
    add("--sequences", type=_counts, default=SIZES, metavar="N,N...",
        help="that decode at a time (default: 1,2,4,6,7,8,15,16,32)")  # fmt: skip
    add("--depths", type=_counts, default=DEPTHS, metavar="N,N...",
        help="tokens that each has before (default: 0,256)")  # fmt: skip
    add("--steps", type=int, default=STEPS, metavar="N", help="of a run (default: %(default)s)")
    add("--vs", choices=(BATCHED_BENCH,), help="llama.cpp's own tool, in turns with ours")
    add("--llama-batched-bench", default=BATCHED_BENCH, metavar="PATH", help="where it is")
    bench_common.add_arguments(parser)


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers") from None
    if min(counts) < 0:
        raise argparse.ArgumentTypeError("a number is negative")
    return counts


def run(options: argparse.Namespace) -> int:
    """Measures, prints, writes."""
    import uvloop  # here: `--help` needs none

    if options.pairs < 1 or options.steps < 1 or min(options.sequences) < 1:
        raise ConfigError("--pairs, --steps and --sequences must be at least 1")
    sizes = [Size(n, d) for d, n in itertools.product(options.depths, options.sequences)]
    resolved = _resolve(options, sizes)
    peer = _peer(options, resolved)
    runs: Runs = {}
    try:
        uvloop.run(_measure(options, resolved, sizes, peer, runs))
    finally:
        if any(found["local-worker"] for found in runs.values()):
            section = _section(resolved, runs)
            show(section)
            write(options.report, page("local-worker bench decode", [section]))
            write_json(options.json, _as_json(options, runs))
    return 0


def _resolve(options: argparse.Namespace, sizes: list[Size]) -> Resolved:
    """A plan with room for the largest size, and without anything kept for later."""
    from local_worker.engines.llama_cpp.config import LlamaConfig
    from local_worker.engines.llama_cpp.layout import BLOCK

    each = max(cells_of(size, options.steps) // size.sequences for size in sizes)
    most = max(size.sequences for size in sizes)
    arguments = [
        f"--context={each}",
        f"--max-num-seqs={most}",
        "--prefix-slots=0",
        "--target-itl=0",
        *options.serve_arg,
    ]
    resolved = serve.resolve(["--model", options.model, *arguments])
    if not isinstance(resolved.config, LlamaConfig):
        raise ConfigError(
            "bench decode measures the llama.cpp engine; for vLLM there is bench serve"
        )
    # A plan has room for one request of that length; here all have it at once, and in buffers of
    # their own, too, which the library makes in blocks.
    cells = most * -(-each // BLOCK) * BLOCK
    # Random weights go round in circles, which is easy to guess, and no measure of a step.
    config = replace(resolved.config, kv_capacity=cells, prompt_lookup=False)
    return replace(resolved, config=config)


def _peer(options: argparse.Namespace, resolved: Resolved) -> BatchedBench | None:
    if options.vs is None:
        return None
    config: Any = resolved.config
    peer = BatchedBench(options.llama_batched_bench, config.model_path, config.threads)
    peer.check()
    return peer


async def _measure(
    options: argparse.Namespace,
    resolved: Resolved,
    sizes: list[Size],
    peer: BatchedBench | None,
    runs: Runs,
) -> None:
    from local_worker.serve.engines import make_engine

    engine = make_engine(resolved.config)
    rng = random.Random(options.seed)  # noqa: S311 - for prompts
    ways: list[tuple[str, Callable[[Size], Awaitable[Decoded]]]]
    ways = [("local-worker", lambda size: measure(engine, size, options.steps, rng))]
    if peer is not None:
        ways.append((BATCHED_BENCH, lambda size: peer.measure(size, options.steps)))
    await engine.start()
    try:
        for size in sizes:
            await measure(engine, size, options.steps, rng)  # learns which shape is fastest
            found = runs[size] = {name: [] for name, _ in ways}
            for pair in range(options.pairs):
                for name, way in in_turns(ways, pair):
                    found[name].append(await way(size))
    except* (BenchError, EngineError) as group:
        error = first_of(group)
        if isinstance(error, BenchError):
            raise error from None
        raise BenchError(f"the engine failed: {error}") from None
    finally:
        await engine.aclose()


def _section(resolved: Resolved, runs: Runs) -> Section:
    compared = any(len(found) > 1 for found in runs.values())
    predicted = getattr(resolved.plan, "predicted_tokens_per_s", None)
    heads = ["sequences", "depth", "tokens/s", "compute, us", "sample", "schedule", "send"]
    heads += ["threads", "rows added"]
    heads += ["of bandwidth"] if predicted else []
    heads += [BATCHED_BENCH, "ratio"] if compared else []
    measured = {size: found for size, found in runs.items() if found["local-worker"]}
    rows = [_cells(size, found, predicted, compared) for size, found in measured.items()]
    charts = [_chart(depth, measured) for depth in dict.fromkeys(size.depth for size in measured)]
    return Section(f"decode: {resolved.card.names[0]}", [heads, *rows], charts)


def _chart(depth: int, runs: Runs) -> Chart:
    bars = [
        Bar(f"{size.sequences}, {name}", [run.tokens_per_s for run in each], number)
        for size, found in runs.items()
        if size.depth == depth
        for number, (name, each) in enumerate(found.items())
        if each
    ]
    return Chart(f"tokens/s by sequences, {depth} tokens deep", bars)


def _cells(
    size: Size, found: dict[str, list[Decoded]], predicted: float | None, compared: bool
) -> list[str]:
    ours = found["local-worker"]
    speed = statistics.median(run.tokens_per_s for run in ours)
    cells = [str(size.sequences), str(size.depth), f"{speed:,.1f}"]
    parts = ("compute", "sample", "schedule", "send")
    spent = ([getattr(run.microseconds, part) for run in ours] for part in parts)
    cells += [f"{statistics.median(values):,.0f}" for values in spent]
    cells += [str(ours[-1].threads), f"{statistics.median(run.padding for run in ours):.1f}"]
    if predicted:
        # Of several sequences a step reads the weights once for all of them.
        cells.append(f"{speed / size.sequences / predicted:.0%}")
    if compared:
        theirs = found.get(BATCHED_BENCH, [])
        pairs = min(len(ours), len(theirs))
        speeds = [[run.tokens_per_s for run in runs[:pairs]] for runs in (ours, theirs)]
        cells += (
            [f"{statistics.median(speeds[1]):,.1f}", cell(ratio(*speeds))] if pairs else ["", ""]
        )
    return cells


def _as_json(options: argparse.Namespace, runs: Runs) -> dict[str, Any]:
    return {
        "model": Path(options.model).name,
        "steps": options.steps,
        "sizes": [
            asdict(size) | {name: [asdict(run) for run in each] for name, each in found.items()}
            for size, found in runs.items()
        ],
    }
