"""`local-worker bench tasks`: how right a model is at each effort, and what that takes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from local_worker.bench import peers, report
from local_worker.bench.calibrate import EARLY, WHOLE, as_yaml, budgets_to_try, calibrated
from local_worker.bench.html import Bar, Chart, Section, page
from local_worker.bench.suite import load_suite
from local_worker.bench.tasks import Plan, Results
from local_worker.bench.tasks import run as run_tasks
from local_worker.bench.verdicts import (
    AUTO,
    Pricing,
    against,
    cheapest,
    energy_sources,
    rows_of,
    saving,
)
from local_worker.cli.bench_common import base_url, money, show, today
from local_worker.economics.costs import load_costs
from local_worker.economics.prices import load_prices
from local_worker.errors import BenchError, ConfigError
from local_worker.reasoning.effort import LEVELS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from local_worker.bench.suite import Suite
    from local_worker.bench.verdicts import Answered, Row

MOST_HEAT = 2
EFFORTS = ("none", "low", "medium", "high", AUTO)
HEAD = ("", "answers", "right", "95 %", "thinking tokens", "of those to choose", "output tokens",
        "tokens per right answer", "seconds", "retries", "joules")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench tasks`."""
    add_task_arguments(parser)
    parser.add_argument("--calibrate", type=Path, metavar="FILE.yaml",
        help="measure more budgets than the levels have, and write a table of the cheapest that "
        "are as good (for `serve --calibration`)")  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="FILE.html",
        help="write table and plots there")  # fmt: skip


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """What to ask whom, and what it costs."""
    add = parser.add_argument
    add("suite", nargs="?", default="embedded", metavar="SUITE",
        help="embedded, finance, or a file.yaml (default: %(default)s)")  # fmt: skip
    add("--efforts", default=",".join(EFFORTS), metavar="LEVEL,...",
        help="of none, minimal, low, medium, high, xhigh, max, auto and numbers of thinking "
        "tokens, or all (default: %(default)s)")  # fmt: skip
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
    add("--costs", type=Path, metavar="FILE.yaml", help="what machine and people cost")
    add("--prices", type=Path, metavar="FILE.yaml", help="what APIs ask")
    add("--price", metavar="NAME",
        help="the server at --url is that API: reckon with its price, not a machine's")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the figures there")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run has brought; `rows` may be of fewer tasks than the suite has.

    Attributes:
        ladder: level -> thinking tokens, where the server tells them.
    """

    suite: Suite
    rows: Sequence[Row]
    answers: Sequence[Answered]
    pricing: Pricing
    model: str
    ladder: Mapping[str, int]
    efforts: Sequence[str]

    @property
    def complete(self) -> bool:
        """Whether every effort has an answer to every task."""
        full = [row.effort for row in self.rows if row.tasks == len(self.suite.tasks)]
        return full == list(self.efforts)


def run(options: argparse.Namespace) -> int:
    """Asks, judges, prints."""
    for path in (options.json, options.report, options.calibrate):  # better now than after an hour
        if path is not None:
            check_writable(path)
    measure(options, lambda measured: _tell(options, measured), calibrates=options.calibrate)
    return 0


def check_writable(path: Path) -> None:
    """Raises `ConfigError` where no file can be made there."""
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written")


def measure(
    options: argparse.Namespace, tell: Callable[[Measured], None], *, calibrates: bool = False
) -> None:
    """Asks the suite at every effort. `tell` gets what there is, also when it could not go on."""
    suite = load_suite(options.suite)
    efforts = _efforts(options.efforts)
    if options.concurrency < 1:
        raise ConfigError("--concurrency must be at least 1")
    if options.temperature is not None and not 0 <= options.temperature <= MOST_HEAT:
        raise ConfigError(f"--temperature is between 0 and {MOST_HEAT}")
    for name in ("price", "api_key"):
        if options.url is None and getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} is of a server at --url")
    pricing = _pricing(options)
    with ExitStack() as stack:
        target, served = _target(options, stack)
        ladder: dict[str, int] = served.get("reasoning_budgets") or {}
        if calibrates:
            efforts = _to_calibrate(ladder, served)
        ours = served.get("owned_by") == "local-worker"
        plan = Plan(suite, efforts, options.concurrency, options.temperature, ours)
        results = Results(options.results, plan, target)
        try:
            asyncio.run(run_tasks(target, plan, results, _progress))
        finally:
            rows = rows_of(results.answers, efforts, pricing)
            if rows:
                model = str(served["id"])
                tell(Measured(suite, rows, results.answers, pricing, model, ladder, efforts))


def _pricing(options: argparse.Namespace) -> Pricing:
    costs, listed = load_costs(options.costs), load_prices(options.prices)
    if options.price is None:
        return Pricing(costs)
    names = {price.model: price for price in listed}
    if options.price not in names:
        raise ConfigError(f"--price {options.price!r} is none of {', '.join(names)}")
    return Pricing(costs, names[options.price])


def _efforts(text: str) -> tuple[str, ...]:
    known = (*LEVELS, AUTO)
    efforts = known if text == "all" else tuple(dict.fromkeys(map(str.strip, text.split(","))))
    for effort in efforts:
        if effort not in known and not effort.isdecimal():
            raise ConfigError(f"--efforts: {effort!r} is no number and none of {', '.join(known)}")
    return efforts


def _to_calibrate(ladder: Mapping[str, int], served: Mapping[str, Any]) -> tuple[str, ...]:
    if not ladder:
        raise BenchError(f"{served['id']} has no levels of effort that could be calibrated")
    asked = (WHOLE, EARLY) if AUTO in served.get("reasoning_efforts", ()) else ()
    return (*(str(budget) for budget in budgets_to_try(ladder)), *asked)


def _target(options: argparse.Namespace, stack: ExitStack) -> tuple[peers.Target, dict[str, Any]]:
    """Whom to ask, and what that one says of its model."""
    if options.url is not None:
        url = base_url(options.url)
    else:
        server = peers.local_worker(options.model or "demo", options.serve_arg)
        stack.callback(server.stop)
        server.wait()
        url = server.target.url
    served = _served_model(url, options.api_key)
    name = options.model if options.url is not None and options.model else str(served["id"])
    return peers.Target("server", url, name, options.api_key), served


def _served_model(url: str, api_key: str | None) -> dict[str, Any]:
    """What a server says of the model it serves: its answers are kept under its name."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.get(f"{url}/v1/models", headers=headers, timeout=30, trust_env=False)
        response.raise_for_status()
        model = response.json()["data"][0]
        return {"id": model["id"], **model}
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise BenchError(f"{url} is no OpenAI-compatible server: {error}") from None


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done} of {total} answers", end=end, file=sys.stderr, flush=True)


def _tell(options: argparse.Namespace, measured: Measured) -> None:
    found = section(measured)
    show(found)
    told = list(findings(measured))
    for line in told:
        print(line)
    report.write(options.report, page("local-worker bench tasks", [found]))
    report.write_json(options.json, as_json(measured, told))
    if options.calibrate is not None and measured.complete:
        _calibrate(options.calibrate, measured)


def _calibrate(path: Path, measured: Measured) -> None:
    found, suite = calibrated(measured.rows, measured.ladder), measured.suite
    words = f"bench tasks {suite.name} --calibrate, {today()}: {len(suite.tasks)} tasks"
    path.write_text(as_yaml(found, measured.model, words))
    print(f"written: {path}")


def as_json(measured: Measured, told: Sequence[str]) -> dict[str, Any]:
    """Everything that was found out."""
    return {
        "suite": measured.suite.name,
        "currency": measured.pricing.costs.currency,
        "rows": [asdict(row) for row in measured.rows],
        "findings": list(told),
        "answers": [asdict(answer) for answer in measured.answers],
    }


def section(measured: Measured) -> Section:
    """The efforts, side by side."""
    rows, suite = measured.rows, measured.suite
    priced = any(row.cost is not None for row in rows)
    currency = measured.pricing.costs.currency
    head = [*HEAD, *((f"{currency} per 1,000 tasks", "per 1,000 accepted") if priced else ())]
    table = [head, *(_cells(row, priced=priced) for row in rows)]
    charts = [
        Chart(
            "right, %", [Bar(r.effort, [100 * r.low, 100 * r.accuracy, 100 * r.high]) for r in rows]
        ),
        Chart("thinking tokens of a task", [Bar(r.effort, [r.thinking_tokens]) for r in rows]),
        Chart("seconds of a task", [Bar(r.effort, [r.seconds]) for r in rows]),
    ]
    notes = [f"energy: {source}" for source in energy_sources(measured.answers)]
    return Section(
        f"{suite.name}: {suite.about} ({len(suite.tasks)} tasks)", table, charts, notes=notes
    )


def _cells(row: Row, *, priced: bool) -> list[str]:
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
        "-" if row.joules is None else f"{row.joules:.3g}",
        *(_prices(row) if priced else ()),
    ]


def _prices(row: Row) -> tuple[str, str]:
    if row.cost is None:
        return "-", "-"
    return per_thousand(row.cost.per_output), per_thousand(row.cost.per_accepted)


def per_thousand(cost: float | None) -> str:
    """Of something that costs so much each."""
    return "-" if cost is None else money(1000 * cost)


def findings(measured: Measured) -> Iterator[str]:
    """What the table says, in words."""
    suite, rows = measured.suite, measured.rows
    if not measured.complete:
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
