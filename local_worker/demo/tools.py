"""The tool_call family: call the right function, then put its result into words."""

import json
from dataclasses import dataclass
from random import Random

from local_worker.demo.task import Lesson, Message, Task, Tool
from local_worker.demo.words import CITIES, ITEMS, STATUSES, WEATHER


@dataclass(frozen=True, slots=True)
class _Function:
    name: str
    description: str
    argument: str
    kind: str
    question: str
    reply: str
    result: str

    def tool(self) -> Tool:
        """The function as chat/completions offers it."""
        properties = {self.argument: {"type": self.kind}}
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": properties,
                    "required": [self.argument],
                },
            },
        }

    def draw_value(self, rng: Random) -> str | int:
        """An argument for a call."""
        if self.argument == "city":
            return rng.choice(CITIES)
        if self.argument == "item":
            return rng.choice(ITEMS)
        return rng.randint(100, 999)

    def draw_result(self, rng: Random) -> str | int:
        """What the call gives back."""
        if self.result == "weather":
            return rng.choice(WEATHER)
        if self.result == "status":
            return rng.choice(STATUSES)
        return rng.randint(2, 99)


#: The difficulty of a conversation in which the call was made and answered.
_AFTER_CALL = 2
_FUNCTIONS = (
    _Function(
        *("get_weather", "The weather in a city.", "city", "string"),
        *("What is the weather in {value}?", "It is {result} in {value}.", "weather"),
    ),
    _Function(
        *("get_stock", "The stock of an item.", "item", "string"),
        *("How many {value} are in stock?", "There are {result} {value} in stock.", "stock"),
    ),
    _Function(
        *("get_price", "The price of an item.", "item", "string"),
        *("What is the price of {value}?", "The price of {value} is {result}.", "price"),
    ),
    _Function(
        *("get_order", "The status of an order.", "number", "integer"),
        *("What is the status of order {value}?", "Order {value} is {result}.", "status"),
    ),
)


def tools() -> tuple[Tool, ...]:
    """All functions of the family, as chat/completions offers them."""
    return tuple(function.tool() for function in _FUNCTIONS)


def tool_call(rng: Random, difficulty: int) -> Lesson:
    """Write a call (difficulty 1), or answer once the call's result is there (difficulty 2)."""
    offered = rng.sample(_FUNCTIONS, rng.randint(1, 3))
    function = rng.choice(offered)
    value, result = function.draw_value(rng), function.draw_result(rng)
    question = function.question.format(value=value)
    call = json.dumps({"name": function.name, "arguments": {function.argument: value}})
    messages: tuple[Message, ...] = ({"role": "user", "content": question},)
    answer = f"<tool_call>\n{call}\n</tool_call>"
    surplus = (
        f"the user wants the {function.result}\nthe function {function.name} is there for this\n"
        f"the {function.argument} is {value}\n"
    )
    if difficulty == _AFTER_CALL:
        result_text = json.dumps({function.result: result})
        messages += (
            {"role": "assistant", "content": answer},
            {"role": "tool", "content": result_text},
        )
        answer = function.reply.format(value=value, result=result)
        surplus += f"the {function.result} is {result}\n"
    tools = tuple(each.tool() for each in offered)
    task = Task("tool_call", difficulty, messages, answer, tools)
    return Lesson(task, "", surplus, "none")
