"""Is an answer right? One pure checker for each form of answer.

The checkers read an answer as a person would: the words around a number, the spaces in a JSON
object and a code fence do not matter. So other models can be measured on the same tasks.
"""

import json
import re

from local_worker.demo.task import Task
from local_worker.demo.words import TEAMS

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_FENCE = re.compile(r"^```(?:json)?\s*|\s*```$")


def same_number(task: Task, content: str) -> bool:
    """The last number of the content is the answer's number."""
    numbers = re.findall(r"\d+", content)
    return bool(numbers) and numbers[-1] == task.answer.split()[-1]


def same_json(task: Task, content: str) -> bool:
    """The content is the answer's JSON object, in any order and spacing."""
    wanted: object = json.loads(task.answer)
    return _parse(_FENCE.sub("", content.strip())) == wanted


def same_team(task: Task, content: str) -> bool:
    """The content names the answer's team and no other."""
    words = set(re.findall(r"[a-z]+", content.lower()))
    return words & set(TEAMS) == {task.answer}


def same_text(task: Task, content: str) -> bool:
    """The content is the answer, but for white space."""
    return content.split() == task.answer.split()


def same_call(task: Task, content: str) -> bool:
    """The content makes the answer's one tool call; an answer in words must be the same text."""
    wanted = _CALL.findall(task.answer)
    if not wanted:
        return same_text(task, content)
    made = _CALL.findall(content)
    return len(made) == 1 and _parse(made[0]) == json.loads(wanted[0])


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
