"""All task families: generators, checkers, and the mixed suite.

A task belongs to the training split or to the held-out split by a hash of its text, so that no
held-out task can have been trained on, whatever the seeds. Only chat is too small for a split.
By convention the training also uses seeds from 1,000,000 on, and nothing else does.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from local_worker.demo import arithmetic, checks, texts
from local_worker.demo.chat import chat
from local_worker.demo.task import Lesson, Task
from local_worker.demo.tools import tool_call

Split = Literal["train", "held_out"]

#: Effort level to thinking tokens. The demo model thinks in miniature, so its ladder is its own.
LADDER = {"none": 0, "minimal": 16, "low": 32, "medium": 96, "high": 256}
#: The levels that the effort probe chooses from, each one token.
PROBE_LEVELS = ("none", "low", "medium", "high")

_HELD_OUT_SHARE = 8


@dataclass(frozen=True, slots=True)
class Family:
    """A task family.

    Attributes:
        draw: Makes one lesson of a difficulty.
        check: Judges an answer.
        difficulties: Each difficulty with its weight in a random draw.
        splits: Whether there are tasks enough to hold some out.
    """

    draw: Callable[[Random, int], Lesson]
    check: Callable[[Task, str], bool]
    difficulties: dict[int, float]
    splits: bool = True


FAMILIES = {
    "invoice": Family(
        arithmetic.invoice,
        checks.same_number,
        {1: 0.05, 2: 0.06, 3: 0.08, 4: 0.1, 5: 0.14, 6: 0.17, 7: 0.19, 8: 0.21},
    ),
    "count": Family(arithmetic.count, checks.same_number, dict.fromkeys(range(3, 10), 1.0)),
    "largest": Family(arithmetic.largest, checks.same_number, dict.fromkeys(range(3, 9), 1.0)),
    "extract": Family(texts.extract, checks.same_json, dict.fromkeys(range(2, 6), 1.0)),
    "classify": Family(texts.classify, checks.same_team, {1: 1.0, 2: 1.0}),
    "summarise": Family(texts.summarise, checks.same_text, {1: 1.0}),
    "tool_call": Family(tool_call, checks.same_call, {1: 2.0, 2: 1.0}),
    "chat": Family(chat, checks.same_text, {1: 1.0, 2: 1.0, 3: 2.0}, splits=False),
}


def split_of(task: Task) -> Split:
    """The split that a task belongs to, by a hash of its messages."""
    text = json.dumps([task.family, *task.messages], sort_keys=True)
    bucket = hashlib.sha256(text.encode()).digest()[0] % _HELD_OUT_SHARE
    return "held_out" if bucket == 0 else "train"


def draw_lesson(
    family: str, rng: Random, split: Split = "held_out", difficulty: int | None = None
) -> Lesson:
    """One lesson of a family from the given split."""
    spec = FAMILIES[family]
    while True:
        level = difficulty
        if level is None:
            level = rng.choices(list(spec.difficulties), list(spec.difficulties.values()))[0]
        lesson = spec.draw(rng, level)
        if not spec.splits or split_of(lesson.task) == split:
            return lesson


def generate_lessons(
    family: str, seed: int, n: int, *, difficulty: int | None = None, split: Split = "held_out"
) -> list[Lesson]:
    """`n` lessons of a family; the same arguments always give the same lessons."""
    rng = Random(f"{family}/{seed}/{split}/{difficulty}")  # noqa: S311 - not a secret
    return [draw_lesson(family, rng, split, difficulty) for _ in range(n)]


def generate(
    family: str, seed: int, n: int, *, difficulty: int | None = None, split: Split = "held_out"
) -> list[Task]:
    """`n` tasks of a family; the same arguments always give the same tasks.

    Args:
        family: A key of `FAMILIES`.
        seed: Any number; see the module about the seeds of the training.
        n: How many tasks.
        difficulty: One of the family's difficulties, or None for its usual mix.
        split: Held out from the training unless asked otherwise.

    Raises:
        KeyError: There is no such family.
    """
    lessons = generate_lessons(family, seed, n, difficulty=difficulty, split=split)
    return [lesson.task for lesson in lessons]


def mixed_suite(seed: int, n_per_family: int) -> list[Task]:
    """Held-out tasks of every family, well mixed: what the cost benchmark runs."""
    suite = [task for family in FAMILIES for task in generate(family, seed, n_per_family)]
    Random(f"mixed/{seed}").shuffle(suite)  # noqa: S311 - not a secret
    return suite


def check(task: Task, content: str) -> bool:
    """Whether the content, without any thought, answers the task."""
    return FAMILIES[task.family].check(task, content)
