"""`local-worker bench tasks`: how right a model is at each effort, and what that takes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from local_worker.bench import peers, report
from local_worker.bench.html import Bar, Chart, Section, page
from local_worker.bench.suite import load_suite
from local_worker.bench.tasks import Plan, Results
from local_worker.bench.tasks import run as run_tasks
from local_worker.bench.verdicts import AUTO, against, cheapest, rows_of, saving
from local_worker.cli.bench_common import base_url, show
from local_worker.errors import BenchError, ConfigError
from local_worker.reasoning.effort import LEVELS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from local_worker.bench.suite import Suite
    from local_worker.bench.verdicts import Row

MOST_HEAT = 2
EFFORTS = ("none", "low", "medium", "high", AUTO)
HEAD = ("", "answers", "right", "95 %", "thinking tokens", "of those to choose", "output tokens",
        "tokens per right answer", "seconds", "retries")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench tasks`."""
    add = parser.add_argument
    add("suite", nargs="?", default="embedded", metavar="SUITE",
        help="embedded, finance, or a file.yaml (default: %(default)s)")  # fmt: skip
    add("--efforts", default=",".join(EFFORTS), metavar="LEVEL,...",
        help="of none, minimal, low, medium, high, xhigh, max and auto, or all "
        "(default: %(default)s)")  # fmt: skip
    add("--model", help="serve this model for the run (default: demo); with --url, its name there")
    add("--url", help="ask a server that runs already; with or without /v1")
    add("--api-key", help="of the server at --url")
    add("--concurrency", type=int, default=8, metavar="N",
        help="requests in flight (default: %(default)s)")  # fmt: skip
    add("--temperature", type=float, metavar="T", help="of every request (default: the server's)")
    add("--serve-arg", action="append", default=[], metavar="ARG",
        help="an option for `local-worker serve`, e.g. --serve-arg=--threads=2")  # fmt: skip
    add("--results", type=Path, metavar="FILE.jsonl",
        help="keep every answer there; a run that was stopped goes on from it")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    add("--report", type=Path, metavar="FILE.html", help="write table and plots there")


def run(options: argparse.Namespace) -> int:
    """Asks, judges, prints."""
    suite = load_suite(options.suite)
    efforts = _efforts(options.efforts)
    if options.concurrency < 1:
        raise ConfigError("--concurrency must be at least 1")
    if options.temperature is not None and not 0 <= options.temperature <= MOST_HEAT:
        raise ConfigError(f"--temperature is between 0 and {MOST_HEAT}")
    for path in (options.json, options.report):  # better now than after an hour
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ConfigError(f"{path} cannot be written")
    with ExitStack() as stack:
        target = _target(options, stack)
        plan = Plan(suite, efforts, options.concurrency, options.temperature)
        results = Results(options.results, plan, target)
        try:
            asyncio.run(run_tasks(target, plan, results, _progress))
        finally:
            rows = rows_of(results.answers, efforts)
            if rows:
                _tell(options, suite, rows, results)
    return 0


def _efforts(text: str) -> tuple[str, ...]:
    known = (*LEVELS, AUTO)
    efforts = known if text == "all" else tuple(dict.fromkeys(map(str.strip, text.split(","))))
    for effort in efforts:
        if effort not in known:
            raise ConfigError(f"--efforts: {effort!r} is none of {', '.join(known)}")
    return efforts


def _target(options: argparse.Namespace, stack: ExitStack) -> peers.Target:
    if options.url is not None:
        url = base_url(options.url)
    else:
        server = peers.local_worker(options.model or "demo", options.serve_arg)
        stack.callback(server.stop)
        server.wait()
        url = server.target.url
    served = _served_model(url, options.api_key)
    name = options.model if options.url is not None and options.model else served
    return peers.Target("server", url, name, options.api_key)


def _served_model(url: str, api_key: str | None) -> str:
    """The name of what a server serves: its answers are kept under it."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.get(f"{url}/v1/models", headers=headers, timeout=30, trust_env=False)
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise BenchError(f"{url} is no OpenAI-compatible server: {error}") from None


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done} of {total} answers", end=end, file=sys.stderr, flush=True)


def _tell(options: argparse.Namespace, suite: Suite, rows: Sequence[Row], results: Results) -> None:
    section = _section(suite, rows)
    show(section)
    findings = list(_findings(suite, rows))
    for line in findings:
        print(line)
    report.write(options.report, page("local-worker bench tasks", [section]))
    found: dict[str, Any] = {
        "suite": suite.name,
        "rows": [asdict(row) for row in rows],
        "findings": findings,
        "answers": [asdict(answer) for answer in results.answers],
    }
    report.write_json(options.json, found)


def _section(suite: Suite, rows: Sequence[Row]) -> Section:
    table = [list(HEAD), *(_cells(row) for row in rows)]
    charts = [
        Chart(
            "right, %", [Bar(r.effort, [100 * r.low, 100 * r.accuracy, 100 * r.high]) for r in rows]
        ),
        Chart("thinking tokens of a task", [Bar(r.effort, [r.thinking_tokens]) for r in rows]),
        Chart("seconds of a task", [Bar(r.effort, [r.seconds]) for r in rows]),
    ]
    return Section(f"{suite.name}: {suite.about} ({len(suite.tasks)} tasks)", table, charts)


def _cells(row: Row) -> list[str]:
    return [
        row.effort,
        str(row.tasks),
        f"{100 * row.accuracy:.1f} %",
        f"{100 * row.low:.1f}-{100 * row.high:.1f}",
        f"{row.thinking_tokens:.1f}",
        f"{row.router_tokens:.1f}",
        f"{row.output_tokens:.1f}",
        "-" if row.tokens_per_right is None else f"{row.tokens_per_right:.1f}",
        f"{row.seconds:.2f}",
        str(row.retries),
    ]


def _findings(suite: Suite, rows: Sequence[Row]) -> Iterator[str]:
    """What the table says, in words."""
    if any(row.tasks < len(suite.tasks) for row in rows):
        yield "the run is not complete: its rows are not of the same tasks"
        return
    least = cheapest(rows, suite.bar)
    bar = f"{100 * suite.bar:g} %"
    if least is None:
        yield f"no effort gets {bar} right"
    else:
        yield f"cheapest effort that gets {bar} right: {least.effort}"
    auto = next((row for row in rows if row.effort == AUTO), None)
    if auto is None:
        return
    levels = ", ".join(f"{level} {count}" for level, count in auto.chosen.items())
    yield f"auto chose: {levels}"
    best, high = saving(rows), next((row for row in rows if row.effort == "high"), None)
    compared = [best] if best else []
    if high is not None and (best is None or best.effort != "high"):
        compared.append(against(auto, high))
    for other in compared:
        less = other.thinking
        tokens = ""
        if less is not None:
            word = "fewer" if less >= 0 else "more"
            tokens = f"{100 * abs(less):.0f} % {word} thinking tokens, "
        yield f"auto beside {other.effort}: {tokens}{100 * other.points:+.1f} points of accuracy"
