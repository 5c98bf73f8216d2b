"""Accuracy of the embedded model by thinking budget, over HTTP, on held-out tasks.

What it shows: that a budget given with a request decides how much the model thinks, that thinking
is what solves the hard tasks, and that a cut thought still brings an answer. Greedy; each cell is
the share of right answers among `--tasks` tasks of a family. Long invoices (5 to 8 lines) are a row
of their own; the mixed suite is all families together.

    python benchmarks/effort_table.py [--url URL] [--tasks 200] [--plot docs/effort.svg]

Prints a Markdown table for people and one JSON line, last, for programs. Exits with 1 where the
mixed suite's accuracy drops, with a growing budget, by more than its confidence interval.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from common import Answer, ask, server_at

from local_worker.bench.verdicts import wilson
from local_worker.demo.families import FAMILIES, check, generate

if TYPE_CHECKING:
    from local_worker.demo.task import Task

BUDGETS = (0, 16, 32, 64, 128, 256)
LONG = range(5, 9)
SEED = 20_261
CONCURRENCY = 16
WITHOUT = ("tool_call",)
"""Families that need what this version of the server does not have yet."""


def suites(tasks: int) -> dict[str, list[Task]]:
    """Held-out tasks by row of the table."""
    families = [name for name in FAMILIES if name not in WITHOUT]
    rows = {name: generate(name, SEED, tasks) for name in families}
    each = -(-tasks // len(LONG))
    rows["long invoice"] = [
        task for lines in LONG for task in generate("invoice", SEED + 1, each, difficulty=lines)
    ][:tasks]
    return rows


async def measure(url: str, tasks: list[Task], budget: int, temperature: float) -> list[bool]:
    """Which of the tasks are answered right under the budget."""
    gate = asyncio.Semaphore(CONCURRENCY)
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:

        async def one(task: Task) -> bool:
            body = {
                "messages": list(task.messages),
                "reasoning_budget_tokens": budget,
                "temperature": temperature,
                "seed": 1,
            }
            async with gate:
                answer: Answer = await ask(client, body)
            used = answer.usage["completion_tokens_details"]["reasoning_tokens"]
            if used > budget:
                raise AssertionError(f"{used} thinking tokens under a budget of {budget}")
            return check(task, answer.content)

        return list(await asyncio.gather(*(one(task) for task in tasks)))


async def table(
    url: str, rows: dict[str, list[Task]], temperature: float
) -> dict[str, dict[int, int]]:
    """Right answers by row and budget; the mixed suite is the sum of the families."""
    right: dict[str, dict[int, int]] = {name: {} for name in rows}
    for name, budget in itertools.product(rows, BUDGETS):
        right[name][budget] = sum(await measure(url, rows[name], budget, temperature))
        print(f"{name} {budget}: {right[name][budget]}", file=sys.stderr)
    return right


def mixed(rows: dict[str, list[Task]], right: dict[str, dict[int, int]]) -> tuple[int, list[int]]:
    """Size of the mixed suite and its right answers by budget."""
    names = [name for name in rows if name in FAMILIES]
    total = sum(len(rows[name]) for name in names)
    return total, [sum(right[name][budget] for name in names) for budget in BUDGETS]


def drops(total: int, right: list[int]) -> list[str]:
    """Budgets at which the mixed suite is worse than with any smaller one, beyond noise."""
    found = []
    for later, count in enumerate(right):
        best = max(right[: later + 1])
        if wilson(count, total)[1] < wilson(best, total)[0]:
            found.append(f"budget {BUDGETS[later]}: {count} of {total}, {best} before")
    return found


def markdown(rows: dict[str, list[Task]], right: dict[str, dict[int, int]]) -> str:
    """The table for people, in percent."""
    total, together = mixed(rows, right)
    lines = [
        "| % right at a budget of | " + " | ".join(map(str, BUDGETS)) + " |",
        "|---|" + "--:|" * len(BUDGETS),
    ]
    for name, tasks in rows.items():
        cells = [f"{100 * right[name][budget] / len(tasks):.1f}" for budget in BUDGETS]
        lines.append(f"| {name} ({len(tasks)}) | " + " | ".join(cells) + " |")
    cells = [f"**{100 * count / total:.1f}**" for count in together]
    lines.append(f"| **mixed** ({total}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(path: Path, rows: dict[str, list[Task]], right: dict[str, dict[int, int]]) -> None:
    """Accuracy against budget as an SVG file."""
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "effort"
    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    total, together = mixed(rows, right)
    low, high = zip(*(wilson(count, total) for count in together), strict=True)
    spots = range(len(BUDGETS))
    axes.fill_between(spots, [100 * x for x in low], [100 * x for x in high], alpha=0.25)
    axes.plot(spots, [100 * c / total for c in together], "o-", label="mixed suite (95 % interval)")
    for name in ("long invoice", "count", "extract"):
        share = [100 * right[name][budget] / len(rows[name]) for budget in BUDGETS]
        axes.plot(spots, share, "--", label=name)
    axes.set_xticks(spots, [str(budget) for budget in BUDGETS])
    axes.set_xlabel("thinking budget, tokens")
    axes.set_ylabel("right answers, %")
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.legend(loc=(0.02, 0.12))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Runs the table. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", help="a running server (default: starts one)")
    parser.add_argument("--engine", default="llama_cpp", help="of the server that is started")
    parser.add_argument("--tasks", type=int, default=200, help="held-out tasks a row")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--plot", type=Path, help="write the plot to this SVG file")
    options = parser.parse_args()
    rows = suites(options.tasks)
    with server_at(options.url, "--engine", options.engine) as url:
        right = asyncio.run(table(url, rows, options.temperature))
    print(markdown(rows, right))
    if options.plot:
        plot(options.plot, rows, right)
    total, together = mixed(rows, right)
    found = drops(total, together)
    for drop in found:
        print(f"accuracy drops at {drop}", file=sys.stderr)
    print(json.dumps({"budgets": BUDGETS, "right": right, "mixed": together, "total": total}))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
