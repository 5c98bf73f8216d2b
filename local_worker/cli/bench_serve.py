"""`local-worker bench serve`: a server under load, beside a peer in the same run."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_worker.bench import peers, report
from local_worker.bench.html import page
from local_worker.bench.load import run as run_load
from local_worker.bench.load import tokens_per_word
from local_worker.bench.scenario import load_scenario
from local_worker.bench.shipped import names_of
from local_worker.cli import bench_common
from local_worker.cli.bench_common import base_url, in_turns, show
from local_worker.errors import BenchError, ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from local_worker.bench.html import Section
    from local_worker.bench.peers import Started, Target
    from local_worker.bench.scenario import Scenario

LLAMA_SERVER = "llama-server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench serve`."""
    add = parser.add_argument
    add("--model", help="serve this model for the run (a name, or a GGUF file)")
    add("--url", help="measure a server that runs already; with or without /v1")
    add("--vs", action="append", default=[], metavar="URL|llama-server",
        help="a peer, measured in turns with it; may be repeated. llama-server is started with its "
        "default and with a slot for each request, and needs --model FILE.gguf")  # fmt: skip
    add("--vs-arg", action="append", default=[], metavar="ARG",
        help="a second server of ours in turns with it, with this option for `local-worker serve`, "
        "e.g. --vs-arg=--prompt-lookup=off; may be repeated. Needs --model")  # fmt: skip
    add("--llama-server", default=LLAMA_SERVER, metavar="PATH", help="where it is")
    add("--scenario", action="append", metavar="NAME|FILE.yaml",
        help=f"{', '.join(names_of('scenario'))}, or a file; may be repeated")  # fmt: skip
    add("--context", type=int, default=8192, metavar="N",
        help="tokens of a request, for our own server (default: %(default)s)")  # fmt: skip
    add("--api-key", help="of the server at --url")
    bench_common.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Measures, prints, writes."""
    scenarios = [load_scenario(name) for name in options.scenario or ("stream", "shared-prefix")]
    if options.pairs < 1:
        raise ConfigError("--pairs must be at least 1")
    if (options.url is None) == (options.model is None):
        raise ConfigError("give --model to serve one, or --url of a server that runs already")
    if options.vs_arg and options.model is None:
        raise ConfigError("--vs-arg needs --model, which both servers are to serve")
    found: dict[str, Any] = {}
    sections: list[Section] = []
    with ExitStack() as stack:
        for scenario in scenarios:
            started, targets = _servers(options, scenario, stack)
            runs: report.Runs = {target.name: [] for target in targets}
            try:
                asyncio.run(_measure(options, scenario, targets, runs))
            except BenchError:
                for server in started:
                    server.check()  # a dead server is the better explanation
                raise
            finally:
                measured = {name: done for name, done in runs.items() if done}
                if measured:
                    sections.append(report.section(scenario, measured))
                    show(sections[-1])
                    report.write(options.report, page("local-worker bench serve", sections))
                found[scenario.name] = report.as_json(scenario, runs)
                report.write_json(options.json, found)
            stack.close()  # the next scenario may want other numbers of slots
    return 0


def _servers(
    options: argparse.Namespace, scenario: Scenario, stack: ExitStack
) -> tuple[list[Started], list[Target]]:
    """Starts what has to be started, and ends it with the stack; ours is the first target."""
    started: list[Started] = []
    targets: list[Target] = []

    def start(server: Started) -> None:
        stack.callback(server.stop)
        started.append(server)
        targets.append(server.target)

    if options.url is not None:
        targets.append(peers.Target("server", base_url(options.url), api_key=options.api_key))
    else:
        arguments = [
            f"--context={options.context}",
            f"--max-num-seqs={max(8, scenario.concurrency)}",
            f"--prompt-lookup={'on' if scenario.guesses else 'off'}",
        ]
        arguments += options.serve_arg
        start(peers.local_worker(options.model, arguments))
        if options.vs_arg:
            start(peers.local_worker(options.model, [*arguments, *options.vs_arg], options.vs_arg))
    for peer in options.vs:
        if peer == LLAMA_SERVER:
            for server in _llama_servers(options, scenario):
                start(server)
        else:
            targets.append(peers.Target(peer, base_url(peer)))
    for server in started:
        server.wait()
    return started, targets


def _llama_servers(options: argparse.Namespace, scenario: Scenario) -> Iterator[Started]:
    if options.model is None or not Path(options.model).is_file():
        raise ConfigError("--vs llama-server needs --model FILE.gguf, which both are to serve")
    counts = (None,) if scenario.concurrency == 1 else (None, scenario.concurrency)
    for slots in counts:
        yield peers.llama_server(
            options.llama_server, options.model, slots=slots, cells=scenario.cells
        )


async def _measure(
    options: argparse.Namespace, scenario: Scenario, targets: list[Target], runs: report.Runs
) -> None:
    """In turns, with prompts that are the same within a pair and new in each."""
    seeds = random.Random(options.seed)  # noqa: S311 - for prompts
    words = [await tokens_per_word(target) for target in targets]
    for pair in range(options.pairs):
        seed = seeds.randrange(1 << 30)
        for target in in_turns(targets, pair):
            runs[target.name].append(await run_load(target, scenario, seed, words[0]))
