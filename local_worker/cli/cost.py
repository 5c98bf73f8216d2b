"""`local-worker cost`: what the work so far has cost, and what a task costs at each effort."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_worker.bench.html import Section
from local_worker.cli import cost_report
from local_worker.cli.accounts import default_ledger
from local_worker.cli.bench_common import duration, energy, money, prices_today, show
from local_worker.economics import costs, prices
from local_worker.economics.ledger import connect
from local_worker.economics.summary import GROUPS, since, summarise
from local_worker.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from local_worker.economics.costs import Costs
    from local_worker.economics.prices import Price
    from local_worker.economics.summary import Line

ACTIONS = {
    "report": "ask a suite of tasks at several efforts, and make a page of what each costs",
    "defaults": "print the cost file that holds unless --costs names another",
    "prices": "print the price list that holds unless --prices names another",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cost`, and its actions."""
    add = parser.add_argument
    add("--since", metavar="7d|DATE", help="from then on (default: everything)")
    add("--by", choices=GROUPS, help="a line for each of them")
    add("--ledger", type=Path, metavar="FILE", help="of the server (default: the usual one)")
    # Names of their own: an action has options that are spelled alike.
    add("--costs", dest="again", type=Path, metavar="FILE.yaml",
        help="reckon again with these costs (default: as it was reckoned then)")  # fmt: skip
    add("--prices", dest="elsewhere", type=Path, metavar="FILE.yaml",
        help="of APIs, to compare with")  # fmt: skip
    add("--json", dest="as_json", action="store_true", help="print JSON")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        if name == "report":
            cost_report.add_arguments(action)


def run(options: argparse.Namespace) -> int:
    """Dispatches to the action."""
    own = (options.since, options.by, options.ledger, options.again, options.elsewhere)
    if options.action is not None and (options.as_json or any(o is not None for o in own)):
        raise ConfigError(f"options of `cost {options.action}` come after it, and are its own")
    if options.action == "report":
        return cost_report.run(options)
    if options.action is not None:
        text = {"defaults": costs.default_text, "prices": prices.default_text}[options.action]
        sys.stdout.write(text())
        return 0
    return _summary(options)


def _summary(options: argparse.Namespace) -> int:
    start = 0.0 if options.since is None else since(options.since)
    again = None if options.again is None else costs.load_costs(options.again)
    listed = prices_today(options.elsewhere)
    path = options.ledger or default_ledger()
    with closing(connect(path.expanduser(), write=False)) as connection:
        total = summarise(connection, start, None)
        lines = summarise(connection, start, options.by) if options.by else total
    if options.as_json:
        print(json.dumps(_as_json(lines, total, again, listed), indent=1))
        return 0
    if not total:
        print("the ledger has nothing of that time")
        return 0
    shown = [*lines, *total] if options.by else total
    show(Section(f"{path}", [_HEAD, *(_cells(line, again) for line in shown)]))
    for line in total:
        for text in _notes(line, again, listed):
            print(text)
    return 0


_HEAD = ("", "requests", "finished", "prompt tokens", "cached", "output", "thinking", "router",
         "machine time", "energy", "J/token", "cost", "per 1,000 requests")  # fmt: skip


def _money(line: Line, again: Costs | None) -> tuple[float, str]:
    """What it costs, and in which currency: by other figures, or as it was reckoned then."""
    if again is None:
        return line.cost, line.currency
    return again.of_share(line.share).total, again.currency


def _cells(line: Line, again: Costs | None) -> list[str]:
    cost, currency = _money(line, again)
    known = line.machine_seconds - line.unknown_seconds
    per_token = line.joules / line.output_tokens if line.output_tokens and known > 0 else None
    return [
        line.group or "none",
        f"{line.requests:,}",
        f"{line.finished:,}",
        f"{line.prompt_tokens:,}",
        f"{line.cached_tokens:,}",
        f"{line.output_tokens:,}",
        f"{line.thinking_tokens:,}",
        f"{line.router_tokens:,}",
        duration(line.machine_seconds),
        energy(line.joules),
        "-" if per_token is None else f"{per_token:.3g}",
        f"{money(cost)} {currency}",
        money(1000 * cost / line.requests),
    ]


def _notes(line: Line, again: Costs | None, listed: Sequence[Price]) -> Iterator[str]:
    cost, currency = _money(line, again)
    yield f"energy: {line.energy_sources.replace(',', '; ')}"
    if line.unknown_seconds:
        yield f"no energy is known for {duration(line.unknown_seconds)} of machine time"
    one_usd = 1.0 if again is None else again.one_usd
    if again is None and currency != "USD":
        return
    for price in listed:
        there = price.of(line.tokens) * one_usd
        times = f", {there / cost:.3g} times as much" if cost else ""
        yield f"the same tokens at {price.model} ({price.since}): {money(there)} {currency}{times}"


def _as_json(
    lines: Sequence[Line],
    total: Sequence[Line],
    again: Costs | None,
    listed: Sequence[Price],
) -> dict[str, Any]:
    def one(line: Line) -> dict[str, Any]:
        cost, currency = _money(line, again)
        return {**asdict(line), "cost": cost, "currency": currency}

    return {
        "lines": [one(line) for line in lines],
        "total": [
            {
                **one(line),
                "elsewhere_usd": {price.model: price.of(line.tokens) for price in listed},
            }
            for line in total
        ],
    }
