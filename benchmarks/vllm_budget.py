"""Two ways to hold a thinking budget on vLLM, timed against each other on the same engine.

    .venv-vllm/bin/python benchmarks/vllm_budget.py [--pairs N] [--budget N]

phases    what local-worker does: the thought is one request; where the budget closes it, a second
          one starts from prompt, thought and closer, over the prefix cache
built-in  vLLM's own `thinking_token_budget`, one request from prompt to answer
none      no budget: what both cost on top of

The same invoices, greedy, 16 at a time, in turns whose order rotates. All of them think longer than
the budget. Prints medians and spreads of the seconds a turn takes, and one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from local_worker.demo import gguf_path
from local_worker.demo.families import generate
from local_worker.engines.vllm.config import VllmConfig
from local_worker.engines.vllm.engine import environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from local_worker.engines.vllm.binding import Vllm

CONCURRENCY = 16
ANSWER_TOKENS = 12
CLOSER = "\n</think>\n\n"


class Runner:
    """One loaded engine, and a turn of each way over the same prompts."""

    def __init__(self, vllm: Vllm, prompts: list[list[int]], budget: int, ids: Any) -> None:  # noqa: ANN401 - a vocabulary
        self._vllm = vllm
        self._prompts = prompts
        self._budget = budget
        self._closer = ids.tokenize(CLOSER, parse_special=True)
        (self._end,) = ids.tokenize("</think>", parse_special=True)
        self._count = 0

    async def turn(self, way: Callable[[list[int]], Awaitable[None]]) -> float:
        """Seconds for all prompts."""
        gate = asyncio.Semaphore(CONCURRENCY)

        async def one(prompt: list[int]) -> None:
            async with gate:
                await way(prompt)

        start = time.perf_counter()
        await asyncio.gather(*(one(prompt) for prompt in self._prompts))
        return time.perf_counter() - start

    async def phases(self, prompt: list[int]) -> None:
        """Thought, then answer."""
        thought = await self._generate(prompt, self._budget, stop_token_ids=[self._end])
        assert len(thought) == self._budget, "the thought has to be longer than the budget"
        await self._generate([*prompt, *thought, *self._closer], ANSWER_TOKENS)

    async def built_in(self, prompt: list[int]) -> None:
        """One request, closed by vLLM."""
        tokens = self._budget + len(self._closer) + ANSWER_TOKENS
        # One more: it counts the line end that the template writes after <think>.
        found = await self._generate(prompt, tokens, thinking_token_budget=self._budget + 1)
        assert found[self._budget] == self._end, "the built-in budget did not close the thought"

    async def none(self, prompt: list[int]) -> None:
        """One request of the same length, closed by nobody."""
        await self._generate(prompt, self._budget + len(self._closer) + ANSWER_TOKENS)

    async def _generate(self, prompt: list[int], max_tokens: int, **params: Any) -> list[int]:  # noqa: ANN401
        self._count += 1
        sampling = {"temperature": 0, "detokenize": False, "ignore_eos": True, "logprobs": None}
        sampling |= {"max_tokens": max_tokens, **params}
        found: list[int] = []
        async for chunk in self._vllm.generate(f"r{self._count}", prompt, sampling):
            found += chunk.token_ids
        return found


async def run(options: argparse.Namespace) -> dict[str, list[float]]:
    """Loads the engine; a warm-up and the pairs."""
    from local_worker.engines.vllm.binding import Vllm
    from local_worker.engines.vllm.vocabulary import Vocabulary

    folder = gguf_path().parent
    args = {
        "dtype": "bfloat16",
        "enforce_eager": True,
        "block_size": 32,
        "kv_cache_memory_bytes": 64 << 20,
        "reasoning_config": {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"},
    }
    vllm = Vllm(VllmConfig(str(folder), 2048, CONCURRENCY, engine_args=args))
    ids = Vocabulary(folder, vllm.vocab_size)
    tasks = generate("invoice", 5, options.prompts, difficulty=8)
    prompts = [
        ids.tokenize(
            f"<|im_start|>user\n{task.messages[-1]['content']}<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n",
            parse_special=True,
        )
        for task in tasks
    ]
    runner = Runner(vllm, prompts, options.budget, ids)
    ways = {"phases": runner.phases, "built-in": runner.built_in, "none": runner.none}
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for name in names:
        await runner.turn(ways[name])
    for pair in range(options.pairs):
        for name in names[pair % 3 :] + names[: pair % 3]:
            found[name].append(await runner.turn(ways[name]))
        print({name: round(found[name][-1], 3) for name in names}, file=sys.stderr)
    vllm.close()
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--budget", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=64)
    options = parser.parse_args()
    os.environ.update(environment(VllmConfig("", 0, 0)))
    found = asyncio.run(run(options))
    for name, seconds in found.items():
        ratios = [a / b for a, b in zip(seconds, found["none"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"| {name} | {statistics.median(seconds):.2f} s | {statistics.median(ratios):.2f} "
            f"({spread}) |"
        )
    print(json.dumps({"budget": options.budget, "prompts": options.prompts, "seconds": found}))


if __name__ == "__main__":
    main()
