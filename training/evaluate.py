"""Measure the shipped file with llama.cpp: right answers by family and thinking budget.

    python -m training.evaluate build/demo/demo.gguf --card

A greedy thought under a budget is the beginning of the unbounded one. So each task is thought
through once, and every budget is a cut of that thought, closed the way the server closes it.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import llama_cpp

from local_worker.demo.families import FAMILIES, PROBE_LEVELS, check, generate_lessons
from local_worker.demo.task import Lesson
from training.layout import CLOSER, PRIMED, PROBE, TURN_END, render

BUDGETS = (0, 16, 32, 64, 128, 256)
#: Held-out tasks by split and by seed; the training's seeds start at a million.
SEED = 7
_HARD_CLOSER = "\n</think>\n\n"
#: No held-out answer is longer.
_ANSWER_LIMIT = 160


@dataclass(slots=True)
class Score:
    """Counts over the tasks of one row of the table."""

    tasks: int = 0
    right: dict[int, int] = field(default_factory=lambda: dict.fromkeys(BUDGETS, 0))
    thinking_tokens: int = 0
    closed: int = 0
    probe_right: int = 0


class Solver:
    """Runs the model as the server does: budget, forced close, probe."""

    def __init__(self, path: Path, temperature: float = 0.0, seed: int = 0) -> None:
        self._llama = llama_cpp.Llama(
            str(path), n_ctx=4096, n_threads=1, n_threads_batch=1, seed=seed, verbose=False
        )
        self._temperature = temperature
        self._end = self.encode(TURN_END)[0]
        self._close = self.encode("</think>")[0]
        self._line_end = self.encode("\n")[0]
        self._labels = [self.encode(level)[0] for level in PROBE_LEVELS]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text with special tokens in it."""
        ids: list[int] = self._llama.tokenize(text.encode(), add_bos=False, special=True)
        return ids

    def think(self, prompt: list[int], limit: int) -> tuple[list[int], bool]:
        """The thought without its closer, and whether the model closed it."""
        thought = self._generate(prompt, limit, self._close)
        return thought, len(thought) < limit

    def cut(self, thought: Sequence[int], budget: int) -> list[int]:
        """The thought and its close under a budget; the last tenth waits for a line end."""
        if len(thought) < budget:
            return [*thought, *self.encode(CLOSER)]
        for i in range(budget - budget // 10, budget):
            if thought[i] == self._line_end:
                return [*thought[: i + 1], *self.encode(CLOSER)]
        return [*thought[:budget], *self.encode(_HARD_CLOSER)]

    def answer(self, prompt: list[int]) -> str:
        """The answer after a closed thought."""
        ids = self._generate(prompt, _ANSWER_LIMIT, self._end)
        text: bytes = self._llama.detokenize(ids, special=True)
        return text.decode(errors="replace")

    def probe(self, prompt: str) -> str:
        """The effort level that the model asks for."""
        self._llama.reset()
        self._llama.eval(self.encode(prompt + PROBE))
        logits = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
        scores = [logits[label] for label in self._labels]
        return PROBE_LEVELS[scores.index(max(scores))]

    def _generate(self, prompt: list[int], limit: int, end: int) -> list[int]:
        ids: list[int] = []
        if limit == 0:
            return ids
        settings = {"temp": self._temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        for token in self._llama.generate(prompt, **settings):
            if token in (end, self._end):
                break
            ids.append(token)
            if len(ids) == limit:
                break
        return ids


def score_lesson(solver: Solver, lesson: Lesson, score: Score) -> None:
    """Add one task's outcomes at every budget."""
    text = render(lesson.task.messages, lesson.task.tools)
    prompt = solver.encode(text + PRIMED)
    thought, closed = solver.think(prompt, max(BUDGETS))
    score.tasks += 1
    score.thinking_tokens += len(thought)
    score.closed += closed
    score.probe_right += solver.probe(text) == lesson.effort
    answers: dict[tuple[int, ...], str] = {}
    for budget in BUDGETS:
        closed_thought = tuple(solver.cut(thought, budget))
        # Budgets that the thought stays below all lead to the same answer.
        if closed_thought not in answers:
            answers[closed_thought] = solver.answer([*prompt, *closed_thought])
        score.right[budget] += check(lesson.task, answers[closed_thought])


def measure(path: Path, n: int, temperature: float = 0.0) -> dict[str, Score]:
    """Score `n` held-out tasks a family, and `n` invoices of 5 to 8 lines."""
    solver = Solver(path, temperature)
    scores: dict[str, Score] = {}
    for name, lesson in _suite(n):
        score_lesson(solver, lesson, scores.setdefault(name, Score()))
    return scores


def _suite(n: int) -> Iterator[tuple[str, Lesson]]:
    for lines in range(5, 9):
        for lesson in generate_lessons("invoice", SEED + 1, n // 4, difficulty=lines):
            yield "invoice 5-8", lesson
    for family in FAMILIES:
        for lesson in generate_lessons(family, SEED, n):
            yield family, lesson


def table(scores: dict[str, Score]) -> str:
    """The scores as a Markdown table, in percent."""
    head = ["family", *map(str, BUDGETS), "tokens", "probe"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, score in scores.items():
        percent = [f"{100 * score.right[budget] / score.tasks:.1f}" for budget in BUDGETS]
        tokens = f"{score.thinking_tokens / score.tasks:.0f}"
        rows.append([name, *percent, tokens, f"{100 * score.probe_right / score.tasks:.1f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def mixed(scores: dict[str, Score]) -> Score:
    """All families together: the mixed suite."""
    total = Score()
    for family in FAMILIES:
        score = scores[family]
        total.tasks += score.tasks
        total.thinking_tokens += score.thinking_tokens
        total.closed += score.closed
        total.probe_right += score.probe_right
        total.right = {b: total.right[b] + score.right[b] for b in BUDGETS}
    return total


def card(scores: dict[str, Score]) -> str:
    """The model card, with the measured table in it."""
    text = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    tasks = scores["invoice"].tasks
    return Template(text).substitute(tasks=tasks, table=table(scores))


def main() -> None:
    """Print the table; write the model card where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--tasks", type=int, default=200, help="tasks of each family")
    parser.add_argument("--card", action="store_true", help="write MODEL_CARD.md beside the file")
    arguments = parser.parse_args()
    scores = measure(arguments.gguf, arguments.tasks)
    scores["mixed suite"] = mixed(scores)
    scores["mixed, sampled"] = mixed(measure(arguments.gguf, arguments.tasks // 4, temperature=1.0))
    print(table(scores))
    if arguments.card:
        arguments.gguf.with_name("MODEL_CARD.md").write_text(card(scores), encoding="utf-8")


if __name__ == "__main__":
    main()
