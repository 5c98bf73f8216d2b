from __future__ import annotations

import pytest

from local_worker.bench.suite import load_suite, read_suite
from local_worker.demo.families import generate
from local_worker.errors import ConfigError

SUITE = """
name: mine
about: two tasks and four drawn ones
bar: 0.9
max_tokens: 100
tasks:
  - id: sum
    ask: 2+2?
    check: {kind: number, value: 4}
    weight: 2.0
  - id: chat
    messages:
      - {role: system, content: Be brief.}
      - {role: user, content: Hello}
    check:
      kind: contains
      texts: [hi]
generate:
  - {family: classify, count: 3, seed: 5}
  - {family: invoice, count: 1, difficulty: 4}
"""


def test_a_suite_has_its_own_tasks_and_drawn_ones():
    suite = read_suite(SUITE, "mine.yaml")
    assert (suite.name, suite.bar, suite.max_tokens) == ("mine", 0.9, 100)
    assert [task.id for task in suite.tasks] == [
        "sum", "chat", "classify-5-0", "classify-5-1", "classify-5-2", "invoice-1-4-0",
    ]  # fmt: skip
    first, second, *drawn = suite.tasks
    assert first.messages == ({"role": "user", "content": "2+2?"},)
    assert (first.accepts("it is 4"), first.accepts("5"), first.weight) == (True, False, 2.0)
    assert [message["role"] for message in second.messages] == ["system", "user"]
    lessons = generate("classify", 5, 3)
    assert [task.messages for task in drawn[:3]] == [task.messages for task in lessons]
    assert [task.accepts(lesson.answer) for task, lesson in zip(drawn, lessons, strict=False)] == [
        True, True, True,
    ]  # fmt: skip
    assert not drawn[0].accepts("no idea")


def test_a_changed_suite_is_another_one():
    digest = read_suite(SUITE, "a").digest
    assert read_suite(SUITE, "b").digest == digest
    for old, new in (("value: 4", "value: 5"), ("seed: 5", "seed: 6"), ("2+2?", "2+3?")):
        assert read_suite(SUITE.replace(old, new), "a").digest != digest


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("value: 4", "valeu: 4", "line 9: tasks.0.check.number"),
        ("kind: number", "kind: numbers", "line 9: tasks.0.check: "),
        ("texts: [hi]", "texts: []", "line 17: tasks.1.check.contains.texts"),
        ("id: chat", "id: sum", "two tasks have the id 'sum'"),
        ("ask: 2+2?", "aks: 2+2?", "line "),
        ("    ask: 2+2?\n", "", "line 7: tasks.0: needs `ask` or `messages`"),
        ("family: classify", "family: classifi", "line 19: generate.0.family: is none of"),
        ("family: classify", "family: tool_call", "is none of"),
        ("difficulty: 4", "difficulty: 40", "line 20: generate.1: `difficulty` is none of"),
        ("bar: 0.9", "bar: 90", "line 4: bar"),
        ("count: 3", "count: 0", "line 19: generate.0.count"),
        ("weight: 2.0", "weight: .inf", "line 10: tasks.0.weight"),
        ("about: two tasks", "about: " + "[" * 20000 + " two", "not valid YAML"),
        ("weight: 2.0", "weight: -1", "line 10: tasks.0.weight"),
        ("{kind: number", "{kind: [number", "not valid YAML"),
        ("name: mine", "name: 2026-13-01", "not valid YAML"),
        (
            "family: invoice, count: 1, difficulty: 4",
            "family: classify, count: 1, seed: 5",
            "the id 'classify-5-0'",
        ),
    ],
)
def test_a_broken_suite_is_refused_with_the_line(old, new, words):
    text = SUITE.replace(old, new, 1)
    assert text != SUITE
    with pytest.raises(ConfigError) as refused:
        read_suite(text, "mine.yaml")
    assert str(refused.value).startswith("mine.yaml")
    assert words in str(refused.value)


def test_a_suite_without_tasks_is_none():
    with pytest.raises(ConfigError, match="has no tasks"):
        read_suite("{name: a, about: b, bar: 1.0}", "a.yaml")
    with pytest.raises(ConfigError, match="line 1"):
        read_suite("just a text", "a.yaml")
    with pytest.raises(ConfigError, match="line 1"):
        read_suite("", "a.yaml")


def test_the_shipped_one_has_400_tasks_of_which_each_takes_its_own_answer():
    suite = load_suite("embedded")
    assert len(suite.tasks) == 400
    assert len({task.id for task in suite.tasks}) == 400


def test_a_suite_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="there are embedded"):
        load_suite("embeded")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_suite(str(tmp_path / "none.yaml"))
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    assert load_suite(str(path)).name == "mine"
