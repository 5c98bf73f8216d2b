"""Decoding without HTTP: what a step of the engine is spent on, and llama.cpp's own tool."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from local_worker.bench.peers import last_words, program
from local_worker.errors import BenchError
from local_worker.types import GenerationRequest, SamplingParams

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from local_worker.engine import Engine
    from local_worker.types import EngineSeconds, EngineStats

LEAST_CELLS = 64
"""The peer warms up with a few tokens of its own, which have to fit, too."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Size:
    """So many sequences of so many tokens each when they begin to decode."""

    sequences: int
    depth: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """Decode steps of one size.

    Attributes:
        tokens_per_s: of all sequences together.
        microseconds: of a step, by what they were spent on; None where the engine does not say.
        threads: that computed the last step; None likewise.
        padding: rows that were added to a step, on average.
    """

    tokens_per_s: float
    microseconds: EngineSeconds | None = None
    threads: int | None = None
    padding: float = 0.0


def prompts(size: Size, vocab_size: int, rng: random.Random) -> list[tuple[int, ...]]:
    """Token ids that share nothing; at least one token each. Pure."""
    return [
        tuple(rng.randrange(vocab_size) for _ in range(max(1, size.depth)))
        for _ in range(size.sequences)
    ]


MEANWHILE = 128
"""Tokens that the first ones may write before the last ones have even arrived: a step of the
embedded model takes an eighth of a millisecond."""


def most_tokens(size: Size, steps: int) -> int:
    """Of an answer: the first ones decode while the last ones' prompts are computed. Pure."""
    return steps + size.sequences * (2 + size.depth // 64) + MEANWHILE


def cells_of(size: Size, steps: int) -> int:
    """KV cells that such a run reserves. Pure."""
    return size.sequences * (max(1, size.depth) + most_tokens(size, steps))


async def measure(engine: Engine, size: Size, steps: int, rng: random.Random) -> Decoded:
    """Lets sequences decode so many steps, greedily, all at once.

    Raises:
        BenchError: a sequence ended before that, or the engine has no room for all of them.
    """
    if size.sequences > engine.info.max_num_seqs:
        raise BenchError(f"the engine computes {engine.info.max_num_seqs} sequences at a time")
    group = _Group(engine, size.sequences, steps)
    async with asyncio.TaskGroup() as tasks:
        for ids in prompts(size, engine.info.vocab_size, rng):
            request = GenerationRequest(
                f"decode-{next(_numbers)}",
                ids,
                most_tokens(size, steps),
                SamplingParams(temperature=0, ignore_eos=True),
            )
            tasks.create_task(group.follow(request))
    return group.result()


class _Group:
    """Sequences that decode together.

    What counts is between the last one's first token and so many steps later.
    """

    def __init__(self, engine: Engine, sequences: int, steps: int) -> None:
        self._engine = engine
        self._missing = sequences
        self._steps = steps
        self._before: EngineStats | None = None
        self._after: EngineStats | None = None

    async def follow(self, request: GenerationRequest) -> None:
        first = True
        async with aclosing(self._engine.generate(request)) as outputs:  # type: ignore[type-var]
            async for output in outputs:
                stats = self._engine.stats()
                if first:
                    first, self._missing = False, self._missing - 1
                if self._missing == 0 and self._before is None:
                    self._before = stats
                if self._before is not None and stats.steps - self._before.steps >= self._steps:
                    self._after = self._after or stats
                    return
                if output.finish is not None:
                    raise BenchError(f"a sequence ended early: {output.finish.reason}")

    def result(self) -> Decoded:
        before, after = self._before, self._after
        assert before is not None
        assert after is not None
        return difference(before, after)


def difference(before: EngineStats, after: EngineStats) -> Decoded:
    """What the steps between two readings of an engine were like. Pure.

    Raises:
        BenchError: the engine does not say what it spends its time on.
    """
    if before.seconds is None or after.seconds is None:
        raise BenchError("this engine does not say what a step is spent on: llama.cpp's does")
    steps = after.steps - before.steps
    was = asdict(before.seconds)
    spent = {part: seconds - was[part] for part, seconds in asdict(after.seconds).items()}
    return Decoded(
        (after.output_tokens - before.output_tokens) / sum(spent.values()),
        type(after.seconds)(**{part: 1e6 * seconds / steps for part, seconds in spent.items()}),
        after.threads,
        (after.padding_rows - before.padding_rows) / steps,
    )


@dataclass(frozen=True, slots=True)
class BatchedBench:
    """llama.cpp's own `llama-batched-bench`: the library in C++, with nothing around it.

    Attributes:
        binary: its name or path.
        model: a GGUF file.
        threads: that it computes with.
    """

    binary: str
    model: str
    threads: int

    def check(self) -> None:
        """Raises `BenchError` when there is no such program."""
        program(self.binary, "--llama-batched-bench")

    async def measure(self, size: Size, steps: int) -> Decoded:
        """The same number of steps, of sequences as deep.

        Raises:
            BenchError: it failed, or printed something else than expected.
        """
        depth = max(1, size.depth)
        cells = max(LEAST_CELLS, size.sequences * (depth + steps))
        arguments = {
            "-m": self.model, "-c": cells, "-npp": depth, "-ntg": steps, "-npl": size.sequences,
            "-t": self.threads, "-b": 2048, "-ub": 512,
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            self.binary,
            *(str(part) for pair in arguments.items() for part in pair),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            printed, complaints = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        speed = batched_bench_speed(printed.decode(errors="replace").splitlines())
        if process.returncode or speed is None:
            words = last_words(complaints)
            raise BenchError(f"{self.binary} ended with status {process.returncode}: {words}")
        return Decoded(speed)


def batched_bench_speed(lines: Iterable[str]) -> float | None:
    """Tokens/s of decoding in what `llama-batched-bench` prints: a table, one row a size. Pure."""
    head: Sequence[str] = ()
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "S_TG t/s" in cells:
            head = cells
        elif head and len(cells) == len(head):
            try:
                return float(cells[head.index("S_TG t/s")])
            except ValueError:
                continue  # the rule below the head
    return None
