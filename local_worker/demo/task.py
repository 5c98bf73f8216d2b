"""What a task is, and what a lesson adds to it.

A task is what a client sends and the answer that a checker expects. A lesson is a task with a
worked thought; only the training reads it.
"""

from dataclasses import dataclass

Message = dict[str, str]
Tool = dict[str, object]


@dataclass(frozen=True, slots=True)
class Task:
    """One request with its expected answer.

    Attributes:
        family: The name of the task family.
        difficulty: The family's own measure: lines, rows, numbers or fields.
        messages: The conversation in the layout of chat/completions.
        answer: The gold answer, word for word as the model was taught to give it.
        tools: The functions offered to the model, empty for most families.
    """

    family: str
    difficulty: int
    messages: tuple[Message, ...]
    answer: str
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Lesson:
    """A task and the thought that leads to its answer.

    Attributes:
        task: The task.
        needed: The part of the thought without which the answer cannot be known; may be empty.
        surplus: What the model thinks on top, as real models do: it changes nothing.
        effort: The cheapest effort level whose budget holds the needed part.
    """

    task: Task
    needed: str
    surplus: str
    effort: str

    @property
    def thought(self) -> str:
        """The whole thought. Every line of it ends with a newline."""
        return self.needed + self.surplus


def ask(family: str, difficulty: int, prompt: str, answer: str) -> Task:
    """A task of a single user message."""
    return Task(family, difficulty, ({"role": "user", "content": prompt},), answer)
