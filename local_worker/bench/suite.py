"""Task suites: what to ask and which answers are right, as YAML, or drawn by generators. Pure.

A task says itself what it asks and how its answer is judged; a family of the embedded model's, or
of the shipped generators, draws as many as wanted from a seed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter, field_validator, model_validator

from local_worker.bench import finance
from local_worker.bench.checkers import Checker, Number
from local_worker.bench.shipped import text_of
from local_worker.demo import families
from local_worker.documents import Record, parse
from local_worker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from local_worker.demo.task import Task as Drawn

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]

FINANCE = "finance/"
HOW_TO_ANSWER = "End your answer with the number."

UNSERVED = ("tool_call",)
"""Families that need what the server does not have yet."""


class Said(Record):
    """One message."""

    role: str
    content: str


class TaskSpec(Record):
    """One task.

    Attributes:
        id: unique in the suite.
        ask: the user's message, where that is all; else `messages`.
        check: when an answer is right.
        weight: in the suite's accuracy.
    """

    id: Annotated[str, Field(min_length=1)]
    ask: str | None = None
    messages: tuple[Said, ...] = Field((), strict=False)
    check: Checker
    weight: Weight = 1.0

    @model_validator(mode="after")
    def _check_question(self) -> TaskSpec:
        if (self.ask is None) == (not self.messages):
            raise ValueError("needs `ask` or `messages`, and not both")
        return self


class Generated(Record):
    """Tasks that a family draws.

    Attributes:
        family: of the embedded model's tasks, or `finance/NAME`.
        count: how many.
        seed: the same seed gives the same tasks.
        difficulty: the family's own measure; None draws it, too.
        weight: of each.
    """

    family: str
    count: Count
    seed: int = 1
    difficulty: int | None = None
    weight: Weight = 1.0

    @field_validator("family")
    @classmethod
    def _check_family(cls, family: str) -> str:
        known = sorted(set(families.FAMILIES) - set(UNSERVED))
        known += [FINANCE + name for name in finance.FAMILIES]
        if family not in known:
            raise ValueError(f"is none of {', '.join(known)}")
        return family

    @model_validator(mode="after")
    def _check_difficulty(self) -> Generated:
        known = families.FAMILIES.get(self.family)
        levels = list(known.difficulties) if known else []
        if self.difficulty is not None and self.difficulty not in levels:
            raise ValueError(f"`difficulty` is none of {', '.join(map(str, levels)) or 'none'}")
        return self


class SuiteFile(Record):
    """What a suite's file holds.

    Attributes:
        name: for tables.
        about: a line on what it is.
        bar: share of right answers from which on the work is good enough.
        max_tokens: of each answer, the thought included; None leaves it to the server.
    """

    name: Annotated[str, Field(min_length=1)]
    about: str
    bar: Share
    max_tokens: Count | None = None
    tasks: tuple[TaskSpec, ...] = Field((), strict=False)
    generate: tuple[Generated, ...] = Field((), strict=False)

    @model_validator(mode="after")
    def _check_tasks(self) -> SuiteFile:
        if not self.tasks and not self.generate:
            raise ValueError("has no tasks: give `tasks` or `generate`")
        seen: set[str] = set()
        for task in self.tasks:
            if task.id in seen:
                raise ValueError(f"two tasks have the id {task.id!r}")
            seen.add(task.id)
        return self


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to ask.

    Attributes:
        id: unique in the suite.
        messages: as in a request's body.
        accepts: whether an answer is right.
        weight: in the suite's accuracy.
    """

    id: str
    messages: tuple[dict[str, str], ...]
    accepts: Callable[[str], bool]
    weight: float


@dataclass(frozen=True, slots=True)
class Suite:
    """All tasks, ready to be asked.

    Attributes:
        digest: tells it from any other, and from itself before it was changed.
    """

    name: str
    about: str
    bar: float
    max_tokens: int | None
    tasks: tuple[Task, ...]
    digest: str


def load_suite(name: str) -> Suite:
    """A shipped suite by name, or one from a file.

    Raises:
        ConfigError: there is none, or something in it makes no sense; with the line.
    """
    place, text = text_of("suite", name)
    return read_suite(text, place)


def read_suite(text: str, place: str) -> Suite:
    """A suite from YAML; `place` is for complaints."""
    found = parse(TypeAdapter(SuiteFile), text, place)
    tasks = (*map(_task, found.tasks), *(t for g in found.generate for t in _generated(g)))
    ids = [task.id for task in tasks]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ConfigError(f"{place}: two tasks have the id {twice!r}; give `generate` another seed")
    return Suite(found.name, found.about, found.bar, found.max_tokens, tasks, _digest(found, tasks))


def _task(spec: TaskSpec) -> Task:
    messages = tuple({"role": m.role, "content": m.content} for m in spec.messages)
    if spec.ask is not None:
        messages = ({"role": "user", "content": spec.ask},)
    return Task(spec.id, messages, spec.check.accepts, spec.weight)


def _generated(spec: Generated) -> Iterator[Task]:
    if spec.family.startswith(FINANCE):
        yield from _financial(spec)
        return
    drawn = families.generate(spec.family, spec.seed, spec.count, difficulty=spec.difficulty)
    prefix = f"{spec.family}-{spec.seed}" + (f"-{spec.difficulty}" if spec.difficulty else "")
    for number, task in enumerate(drawn):

        def accepts(answer: str, task: Drawn = task) -> bool:
            return families.check(task, answer)

        yield Task(f"{prefix}-{number}", tuple(task.messages), accepts, spec.weight)


def _financial(spec: Generated) -> Iterator[Task]:
    name = spec.family.removeprefix(FINANCE)
    for number, question in enumerate(finance.draw(name, spec.seed, spec.count)):
        # A digit less or more behind the point is no mistake.
        judge = Number(
            kind="number", value=float(question.answer), tolerance=_half_a_digit(question)
        )
        message = {"role": "user", "content": f"{question.text} {HOW_TO_ANSWER}"}
        yield Task(f"{name}-{spec.seed}-{number}", (message,), judge.accepts, spec.weight)


def _half_a_digit(question: finance.Question) -> float:
    exponent = question.answer.as_tuple().exponent
    assert isinstance(exponent, int), "an answer is a finite number"
    return 0.5 * 10.0**exponent if exponent else 0.0


def _digest(found: SuiteFile, tasks: Sequence[Task]) -> str:
    """Of the file and of what its generators draw."""
    asked: list[Any] = [found.model_dump(mode="json"), [task.messages for task in tasks]]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
