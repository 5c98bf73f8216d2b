"""500 random requests: the budget holds in every one of them, and the bookkeeping is right.

Random families, budgets 0..256, temperature 0 and 1, streamed and not, 16 at a time. Checked in
each response: reasoning_tokens <= budget, no thought delimiter in any content, usage adds up, one
terminal message, and the response's `reasoning` object agrees with its usage.

    python benchmarks/random_requests.py [--url URL] [--requests 500] [--seed 1]

Prints every violation, then one JSON line. Exits with 1 when there is any.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import sys
from typing import Any

import httpx
from common import Answer, ask, server_at

from local_worker.demo.families import FAMILIES, generate

CONCURRENCY = 16
MAX_BUDGET = 256
DELIMITERS = ("<think>", "</think>", "<|im_start|>", "<|im_end|>")


def draw(rng: random.Random) -> dict[str, Any]:
    """One random request."""
    family = rng.choice([name for name in FAMILIES if name != "tool_call"])
    (task,) = generate(family, rng.randrange(10**6), 1)
    body: dict[str, Any] = {
        "messages": list(task.messages),
        "reasoning_budget_tokens": rng.randint(0, MAX_BUDGET),
        "temperature": rng.choice([0, 1]),
        "seed": rng.randrange(10**6),
        "stream": rng.random() < 0.5,
    }
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    return body


def violations(body: dict[str, Any], answer: Answer) -> list[str]:
    """What is wrong with a response; nothing, it is hoped."""
    wrong = []
    usage, budget = answer.usage, body["reasoning_budget_tokens"]
    if answer.ends not in (["stop"], ["length"]):
        wrong.append(f"ends: {answer.ends}")
    if not usage:
        return [*wrong, "no usage"]
    used = usage["completion_tokens_details"]["reasoning_tokens"]
    if used > budget:
        wrong.append(f"{used} thinking tokens under a budget of {budget}")
    if usage["total_tokens"] != usage["prompt_tokens"] + usage["completion_tokens"]:
        wrong.append(f"usage does not add up: {usage}")
    if used > usage["completion_tokens"]:
        wrong.append(f"more thinking than output: {usage}")
    if answer.effort.get("used_tokens") != used or answer.effort.get("budget_tokens") != budget:
        wrong.append(f"the reasoning object disagrees: {answer.effort}")
    if (used == 0) != (not answer.reasoning) and used == 0:
        wrong.append(f"a thought without tokens: {answer.reasoning!r}")
    found = [d for d in DELIMITERS if d in answer.content + answer.reasoning]
    if found:
        wrong.append(f"delimiters in the text: {found}")
    return wrong


async def run(url: str, bodies: list[dict[str, Any]]) -> tuple[list[str], collections.Counter[str]]:
    """All requests, so many at a time. Returns violations and counts of what closed the thought."""
    gate = asyncio.Semaphore(CONCURRENCY)
    closed: collections.Counter[str] = collections.Counter()
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:

        async def one(body: dict[str, Any]) -> list[str]:
            async with gate:
                answer = await ask(client, body)
            closed[str(answer.effort.get("closed_by"))] += 1
            return [f"{json.dumps(body)}: {text}" for text in violations(body, answer)]

        wrong = await asyncio.gather(*(one(body) for body in bodies))
    return [text for texts in wrong for text in texts], closed


def main() -> int:
    """Runs the requests. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", help="a running server (default: starts one)")
    parser.add_argument("--engine", default="llama_cpp", help="of the server that is started")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)  # noqa: S311 - not a secret
    bodies = [draw(rng) for _ in range(options.requests)]
    with server_at(options.url, "--engine", options.engine) as url:
        wrong, closed = asyncio.run(run(url, bodies))
    for text in wrong:
        print(text)
    print(json.dumps({"requests": len(bodies), "violations": len(wrong), "closed_by": closed}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
