from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import pytest

from local_worker.engines.process import trial
from local_worker.engines.process.grammar import GrammarError
from local_worker.engines.process.trial import CPU_SECONDS, Bounded
from local_worker.types import Grammar, GrammarKind

if TYPE_CHECKING:
    import subprocess


class Grammars:
    """All are good."""

    def __init__(self):
        self.checked = []

    def check(self, grammar):
        self.checked.append(grammar)

    def knows(self, grammar):
        return grammar in self.checked


@pytest.fixture
def grammars():
    return Grammars()


class Letters:
    """A vocabulary of letters and two control tokens."""

    vocab_size = 100
    control = {7: "<|call|>", 99: "<|end|>"}  # noqa: RUF012 - nobody changes it


@pytest.fixture
def started(monkeypatch):
    """Processes that were started, in their order."""
    processes: list[subprocess.Popen[bytes]] = []
    start = trial._start

    def start_one(names):
        processes.append(start(names))
        return processes[-1]

    monkeypatch.setattr(trial, "_start", start_one)
    yield processes
    for process in processes:
        process.communicate(timeout=10)  # it ends where its input does


@pytest.fixture
def bounded(grammars, started):
    return Bounded(grammars, Letters())


def schema(**keys):
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(keys), "x")


SMALL = schema(type="integer")
ENDLESS = {"allOf": [{"type": "integer", "multipleOf": m} for m in (9973, 9967)]}


def refusal(bounded, grammar):
    with pytest.raises(GrammarError) as caught:
        bounded.check(grammar)
    return caught.value


def test_what_compiles_is_left_to_those_who_know_the_vocabulary(bounded, grammars, started):
    bounded.check(SMALL)
    assert bounded.knows(SMALL)
    others = [
        Grammar(GrammarKind.REGEX, "a\nü|(b)", "x"),
        Grammar(GrammarKind.CHOICE, '["a", "b"]', "x"),
        Grammar(GrammarKind.GRAMMAR, 'start: "a"', "x"),
    ]
    for grammar in others:
        bounded.check(grammar)
    assert grammars.checked == [SMALL, *others]
    assert len(started) == 1


@pytest.mark.parametrize(
    "keys",
    [
        ENDLESS,
        {"type": "integer", "multipleOf": 99999989},
        {
            "type": "object",
            "properties": {
                f"a{i}": {"type": "integer", "multipleOf": 29989 + 2 * i, "maximum": 10**15 + i}
                for i in range(74)
            },
            "required": [f"a{i}" for i in range(74)],
        },
    ],
)
def test_what_takes_too_long_is_refused_and_holds_up_nobody_after_it(
    bounded, grammars, started, keys
):
    assert f"more than {CPU_SECONDS} s" in str(refusal(bounded, schema(**keys)))
    bounded.check(SMALL)
    assert grammars.checked == [SMALL]
    assert len(started) == 1, "its fork ended, and not the process"


def test_control_tokens_can_be_named(bounded, grammars):
    named = [
        Grammar(GrammarKind.GRAMMAR, source, "x")
        for source in ('start: <|call|> "a"', 'start: <[7]> "a"', 'start: <[10-99]> "a"')
    ]
    for grammar in named:
        bounded.check(grammar)
    assert grammars.checked == named
    unknown = Grammar(GrammarKind.GRAMMAR, 'start: <|nobody|> "a"', "x")
    assert "unknown special token" in str(refusal(bounded, unknown))


def test_what_is_wrong_is_said_with_its_place(bounded, grammars):
    found = refusal(bounded, schema(type="object", properties={"a": {"type": "objekt"}}))
    assert "objekt" in str(found)
    assert found.path == ".properties.a"
    assert not grammars.checked


def test_looking_for_the_place_is_bounded_too(bounded):
    found = refusal(bounded, schema(**{"$defs": {"d": ENDLESS}, "properties": {"a": {"not": {}}}}))
    assert "not" in str(found)
    assert found.path == ""


def test_a_process_that_was_killed_is_replaced(bounded, grammars, started):
    bounded.check(SMALL)
    started[0].kill()
    started[0].wait(10)
    bounded.check(schema(type="string"))
    assert len(grammars.checked) == 2
    assert len(started) == 2


def test_one_that_is_killed_while_it_compiles_is_replaced_and_asked_again(bounded, started):
    def kill():
        while not started:
            time.sleep(0.01)
        time.sleep(0.5)
        started[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    assert "more than" in str(refusal(bounded, schema(**ENDLESS)))
    killer.join()
    assert len(started) == 2


def test_what_took_too_long_once_is_not_tried_again(bounded, started):
    refusal(bounded, schema(**ENDLESS))
    started[0].kill()
    started[0].wait(10)
    refusal(bounded, schema(**ENDLESS))
    assert len(started) == 1
