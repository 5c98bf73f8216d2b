"""Training examples: a lesson shown with a full thought, none, or one cut short by a server.

A weight goes with every token. Prompts and what a server forces have weight 0: a model trained
on a forced `</think>` would learn to stop at random. Answers that cannot be known yet, because
the thought was cut or is missing, count little, else their noise would drown the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from local_worker.demo import words
from local_worker.demo.chat import noise
from local_worker.demo.families import FAMILIES, PROBE_LEVELS, draw_lesson
from local_worker.demo.task import Lesson, Message
from training.layout import ASSISTANT, CLOSER, PRIMED, PROBE, TURN_END, render

#: The mix of families from a step on. Invoices come first: they need the most examples. Once
#: they are under way, the families that copy names and cities get more of the time.
CURRICULUM: tuple[tuple[int, dict[str, float]], ...] = (
    (
        0,
        {
            "invoice": 0.6,
            "count": 0.09,
            "extract": 0.1,
            "largest": 0.07,
            "classify": 0.04,
            "summarise": 0.03,
            "tool_call": 0.03,
            "chat": 0.04,
        },
    ),
    (
        2500,
        {
            "invoice": 0.48,
            "count": 0.13,
            "extract": 0.15,
            "largest": 0.08,
            "classify": 0.04,
            "summarise": 0.05,
            "tool_call": 0.03,
            "chat": 0.04,
        },
    ),
    (
        3250,
        {
            "invoice": 0.42,
            "count": 0.17,
            "extract": 0.18,
            "largest": 0.06,
            "classify": 0.03,
            "summarise": 0.06,
            "tool_call": 0.04,
            "chat": 0.04,
        },
    ),
    (
        4000,
        {
            "invoice": 0.34,
            "count": 0.17,
            "extract": 0.26,
            "largest": 0.05,
            "classify": 0.03,
            "summarise": 0.08,
            "tool_call": 0.04,
            "chat": 0.03,
        },
    ),
    (
        4950,
        {
            "invoice": 0.5,
            "count": 0.12,
            "extract": 0.17,
            "largest": 0.07,
            "classify": 0.03,
            "summarise": 0.05,
            "tool_call": 0.03,
            "chat": 0.03,
        },
    ),
)
#: The convention of `local_worker.demo.families`: seeds from here on belong to the training.
FIRST_SEED = 1_000_000

_SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a careful worker.",
    "Answer in one line.",
    "You work for a small shop.",
)
# What servers write when they close a thought: here, or one line further down.
_HARD_CLOSERS = ("\n</think>\n\n", "\n</think>\n\n", "\n</think>", "</think>")
_EMPTY_THOUGHTS = ("\n</think>\n\n", "\n</think>\n\n", "\n</think>", "</think>\n\n", "</think>")
_ANSWER_WEIGHT = 2.0
_GUESS_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, each with the weight that its prediction has in the loss."""

    ids: list[int]
    weights: list[float]


class ExampleMaker:
    """Draws examples, the same ones for the same random state."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def draw(self, rng: Random, mix: dict[str, float]) -> Example:
        """One example of a mix of families."""
        family = rng.choices(list(mix), list(mix.values()))[0]
        lesson = draw_lesson(family, rng, "train")
        messages = _decorate(rng, lesson)
        prompt = render(messages, lesson.task.tools)
        mode = rng.random()
        if mode < 0.12:
            return self._build((prompt + PROBE, 0.0), (lesson.effort, _ANSWER_WEIGHT))
        if mode < (0.23 if lesson.needed else 0.4):
            return self._without_thought(rng, lesson, prompt)
        if mode < 0.68:
            return self._cut(rng, lesson, prompt)
        answer = lesson.task.answer + TURN_END
        return self._build(
            (prompt + PRIMED, 0.0), (lesson.thought + CLOSER, 1.0), (answer, _ANSWER_WEIGHT)
        )

    def _without_thought(self, rng: Random, lesson: Lesson, prompt: str) -> Example:
        closer = rng.choice(_EMPTY_THOUGHTS)
        # `<think></think>` is also seen, from clients that write the empty block themselves.
        primed = PRIMED.rstrip("\n") if closer == "</think>" and rng.random() < 0.5 else PRIMED
        weight = _GUESS_WEIGHT if lesson.needed else _ANSWER_WEIGHT
        answer = _after(closer) + lesson.task.answer + TURN_END
        return self._build((prompt + primed + closer, 0.0), (answer, weight))

    def _cut(self, rng: Random, lesson: Lesson, prompt: str) -> Example:
        """A thought ended by the budget: anywhere, or at a line end by the soft landing."""
        thought = self._encode(lesson.thought)
        kept = thought[: rng.randrange(1, len(thought))]
        closer = rng.choice(_HARD_CLOSERS)
        line_end = self._encode("\n")[0]
        if line_end in kept and rng.random() < 0.25:
            while kept[-1] != line_end:
                kept.pop()
            closer = CLOSER
        known = len(kept) >= len(self._encode(lesson.needed))
        answer = _after(closer) + lesson.task.answer + TURN_END
        return self._build(
            (prompt + PRIMED, 0.0),
            (kept, 1.0),
            (closer, 0.0),
            (answer, _ANSWER_WEIGHT if known else _GUESS_WEIGHT),
        )

    def _build(self, *parts: tuple[str | list[int], float]) -> Example:
        ids: list[int] = []
        weights: list[float] = []
        for content, weight in parts:
            new = self._encode(content) if isinstance(content, str) else content
            ids += new
            weights += [weight] * len(new)
        return Example(ids, weights)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def mix_at(step: int) -> dict[str, float]:
    """The mix of families at a step of the training."""
    return next(mix for first, mix in reversed(CURRICULUM) if step >= first)


def corpus(n: int) -> Iterator[str]:
    """Texts with every word that the tokenizer has to know."""
    yield " ".join(
        word
        for words_of_kind in (words.FIRST_NAMES, words.SURNAMES, words.CITIES, words.ITEMS)
        for word in words_of_kind
    )
    yield " ".join((*PROBE_LEVELS, PROBE, ASSISTANT, *_SYSTEM_PROMPTS))
    rng = Random("corpus")
    for _ in range(n):
        lesson = draw_lesson(rng.choice(list(FAMILIES)), rng, "train")
        if lesson.task.family == "chat" and lesson.task.difficulty == 3:
            continue  # words without meaning are to stay in pieces
        yield render(lesson.task.messages, lesson.task.tools)
        yield lesson.thought + lesson.task.answer


def _after(closer: str) -> str:
    """What the model itself writes between a server's closer and the answer."""
    return "" if closer.endswith("\n") else "\n\n"


def _decorate(rng: Random, lesson: Lesson) -> tuple[Message, ...]:
    """The lesson's messages, at times after a system prompt or an earlier exchange."""
    messages = lesson.task.messages
    if rng.random() < 0.06 and not lesson.task.tools:
        family = rng.choice(("chat", "classify", "extract", "largest"))
        earlier = draw_lesson(family, rng, "train").task
        messages = (*earlier.messages, {"role": "assistant", "content": earlier.answer}, *messages)
    if rng.random() < 0.14:
        messages = ({"role": "system", "content": _system_prompt(rng)}, *messages)
    return messages


def _system_prompt(rng: Random) -> str:
    """A common prompt, or a text without meaning: what it says must not matter."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(_SYSTEM_PROMPTS)
    return noise(rng, rng.randint(3, 30) if kind < 0.88 else rng.randint(60, 200))
