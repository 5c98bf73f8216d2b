"""The demo tasks: the same every time, apart from the training's, and strictly checked."""

import dataclasses
import json
from itertools import pairwise

import pytest

from local_worker.demo import gguf_path, model_dir
from local_worker.demo.families import (
    FAMILIES,
    LADDER,
    PROBE_LEVELS,
    check,
    generate,
    generate_lessons,
    mixed_suite,
    split_of,
)
from local_worker.demo.task import Task, ask


def text_of(task: Task) -> str:
    return json.dumps(task.messages)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_tasks(family: str) -> None:
    assert generate(family, 3, 20) == generate(family, 3, 20)
    assert generate(family, 3, 20) != generate(family, 4, 20)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_longer_draw_starts_with_the_shorter(family: str) -> None:
    assert generate(family, 3, 20)[:5] == generate(family, 3, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gold_answers_pass(family: str) -> None:
    assert all(check(task, task.answer) for task in generate(family, 1, 100))


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_and_foreign_answers_fail(family: str) -> None:
    for task in generate(family, 1, 20):
        assert not check(task, "")
        assert not check(task, "I cannot say.")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_of_another_task_fails(family: str) -> None:
    tasks = generate(family, 1, 40)
    for task, other in pairwise(tasks):
        assert check(task, other.answer) == (task.answer == other.answer)


@pytest.mark.parametrize("family", [name for name, spec in FAMILIES.items() if spec.splits])
def test_held_out_tasks_are_never_trained_on(family: str) -> None:
    held_out = {text_of(task) for task in generate(family, 1, 300)}
    trained = {text_of(task) for task in generate(family, 1, 300, split="train")}
    assert not held_out & trained
    assert all(split_of(task) == "held_out" for task in generate(family, 2, 50))
    assert all(split_of(task) == "train" for task in generate(family, 2, 50, split="train"))


@pytest.mark.parametrize(
    ("family", "difficulty"),
    [
        (name, level)
        for name, spec in FAMILIES.items()
        for level in spec.difficulties
        if (name, level) != ("extract", 5)  # all five fields: a city among them
    ],
)
def test_difficulty_can_be_asked_for(family: str, difficulty: int) -> None:
    tasks = generate(family, 1, 5, difficulty=difficulty)
    assert [(task.family, task.difficulty) for task in tasks] == [(family, difficulty)] * 5


@pytest.mark.parametrize("family", FAMILIES)
def test_thoughts_are_whole_lines_and_never_empty(family: str) -> None:
    for lesson in generate_lessons(family, 1, 50):
        assert lesson.thought.endswith("\n")
        assert lesson.surplus.endswith("\n")
        assert not lesson.needed or lesson.needed.endswith("\n")
        assert "\n\n" not in lesson.thought


@pytest.mark.parametrize("family", FAMILIES)
def test_effort_follows_the_needed_thought(family: str) -> None:
    for lesson in generate_lessons(family, 1, 50):
        assert lesson.effort in PROBE_LEVELS
        assert (lesson.effort == "none") == (not lesson.needed)


def test_the_ladder_rises() -> None:
    budgets = list(LADDER.values())
    assert budgets == sorted(set(budgets))
    assert set(PROBE_LEVELS) < set(LADDER)


@pytest.mark.parametrize(
    ("family", "effort_by_difficulty"),
    [
        ("invoice", {1: "none", 2: "low", 3: "medium", 5: "medium", 6: "high", 8: "high"}),
        ("count", {3: "low", 5: "low", 6: "medium", 9: "medium"}),
        ("largest", {3: "none", 4: "none", 5: "low", 6: "medium", 8: "medium"}),
    ],
)
def test_effort_by_difficulty(family: str, effort_by_difficulty: dict[int, str]) -> None:
    for difficulty, effort in effort_by_difficulty.items():
        assert generate_lessons(family, 1, 1, difficulty=difficulty)[0].effort == effort


def test_an_invoice_adds_up() -> None:
    for lesson in generate_lessons("invoice", 5, 50):
        lines = lesson.task.messages[0]["content"].splitlines()[1:]
        products = [line.split()[1].split("x") for line in lines]
        total = sum(int(quantity) * int(price) for quantity, price in products)
        assert lesson.task.answer == f"Total: {total}"
        assert len({line.split()[0] for line in lines}) == lesson.task.difficulty
        assert lesson.thought.split()[-1] == str(total)


def test_a_count_counts() -> None:
    for task in generate("count", 5, 50):
        question, *rows = task.messages[0]["content"].splitlines()
        status = question.removeprefix("How many rows are ").removesuffix("?")
        assert task.answer == f"Count: {sum(row.split()[1] == status for row in rows)}"


def test_the_largest_is_the_largest() -> None:
    for task in generate("largest", 5, 50):
        numbers = map(int, task.messages[0]["content"].splitlines()[1].split())
        assert task.answer == f"Largest: {max(numbers)}"


@pytest.mark.parametrize(
    ("content", "right"),
    [
        ("Total: 60", True),
        ("60", True),
        ("The total is 42 + 18 = 60.", True),
        ("Total: 160", False),
        ("Total: 6", False),
        ("60 or 61", False),
        ("sixty", False),
    ],
)
def test_numbers(content: str, right: bool) -> None:
    assert check(ask("invoice", 2, "pens 3x14\ncups 2x9", "Total: 60"), content) is right


@pytest.mark.parametrize(
    ("content", "right"),
    [
        ('{"city": "Rome", "quantity": 3}', True),
        ('```json\n{"quantity":3,\n"city":"Rome"}\n```', True),
        ('{"city": "Rome", "quantity": "3"}', False),
        ('{"city": "Rome"}', False),
        ('{"city": "Rome", "quantity": 3, "day": "Friday"}', False),
        ('{"city": "Rome", "quantity": 3', False),
        ("null", False),
    ],
)
def test_json(content: str, right: bool) -> None:
    task = ask("extract", 2, "...", '{"city": "Rome", "quantity": 3}')
    assert check(task, content) is right


@pytest.mark.parametrize(
    ("content", "right"),
    [
        ("billing", True),
        ("The Billing team.", True),
        ("billing or sales", False),
        ("rebilling", False),
    ],
)
def test_teams(content: str, right: bool) -> None:
    assert check(ask("classify", 1, "...", "billing"), content) is right


@pytest.mark.parametrize(
    ("content", "right"),
    [
        ('<tool_call>\n{"name": "get_stock", "arguments": {"item": "pens"}}\n</tool_call>', True),
        ('<tool_call>{"arguments": {"item": "pens"}, "name": "get_stock"}</tool_call>', True),
        ('<tool_call>\n{"name": "get_stock", "arguments": {"item": "cups"}}\n</tool_call>', False),
        ('<tool_call>\n{"name": "get_price", "arguments": {"item": "pens"}}\n</tool_call>', False),
        ("<tool_call>\npens\n</tool_call>", False),
        ('{"name": "get_stock", "arguments": {"item": "pens"}}', False),
    ],
)
def test_tool_calls(content: str, right: bool) -> None:
    answer = '<tool_call>\n{"name": "get_stock", "arguments": {"item": "pens"}}\n</tool_call>'
    assert check(ask("tool_call", 1, "...", answer), content) is right


def test_a_call_made_twice_fails() -> None:
    task = generate("tool_call", 1, 1, difficulty=1)[0]
    assert not check(task, task.answer * 2)


def test_tools_are_offered_and_answered() -> None:
    for task in generate("tool_call", 1, 30):
        assert 1 <= len(task.tools) <= 3
        roles = [message["role"] for message in task.messages]
        assert roles == ["user"] if task.difficulty == 1 else ["user", "assistant", "tool"]


def test_the_mixed_suite_has_every_family_in_equal_parts() -> None:
    suite = mixed_suite(1, 10)
    assert suite == mixed_suite(1, 10)
    assert len(FAMILIES) >= 6
    assert sorted(task.family for task in suite) == sorted([*FAMILIES] * 10)


def test_unknown_family() -> None:
    with pytest.raises(KeyError):
        generate("poetry", 1, 1)


def test_tasks_are_frozen() -> None:
    task = generate("invoice", 1, 1)[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.answer = "Total: 0"  # type: ignore[misc]


def test_the_model_ships_with_the_package() -> None:
    assert gguf_path().parent == model_dir()
    assert gguf_path().read_bytes()[:4] == b"GGUF"
    assert gguf_path().stat().st_size < 5_000_000
    names = {path.name for path in model_dir().iterdir()}
    assert names >= {"model.safetensors", "config.json", "tokenizer.json", "MODEL_CARD.md"}


def test_the_template_ships_with_the_tokenizer() -> None:
    config = json.loads((model_dir() / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "<think>" in config["chat_template"]
    assert config["eos_token"] == "<|im_end|>"
