from __future__ import annotations

import pytest

from local_worker.bench.scenario import (
    CHAT,
    COMPLETIONS,
    LEAST_SLOT,
    SAMPLE_WORDS,
    Function,
    Intruder,
    Kind,
    Scenario,
    load_scenario,
    requests,
    sample,
)
from local_worker.bench.shipped import names_of
from local_worker.errors import ConfigError

JOBS = Scenario(
    name="jobs", about="", clients=2, requests=3, shared_tokens=40, own_tokens=8, max_tokens=5
)


def prompts(scenario, seed, tokens_per_word):
    found, long = requests(scenario, seed, tokens_per_word)
    return [r.body["prompt"] for r in found], None if long is None else long.body["prompt"]


@pytest.mark.parametrize("name", names_of("scenario"))
def test_every_shipped_scenario_loads(name):
    assert load_scenario(name).name == name


def test_a_plain_request_gets_an_answer_of_its_full_length():
    (first, *_), _ = requests(JOBS, 1, 2.0)
    assert first.path == COMPLETIONS
    assert first.body["max_tokens"] == 5
    assert first.body["ignore_eos"]


def test_an_answer_with_a_form_ends_where_that_does():
    held = JOBS.model_copy(update={"json_schema": {"type": "integer"}})
    (first, *_), _ = requests(held, 1, 2.0)
    assert first.body["json_schema"] == {"type": "integer"}
    assert "ignore_eos" not in first.body


def test_tools_are_called_in_a_chat():
    refund = Function(name="refund", description="Pays back.", parameters={"type": "object"})
    (first, *_), _ = requests(JOBS.model_copy(update={"tools": (refund,)}), 1, 2.0)
    assert first.path == CHAT
    assert first.body["tool_choice"] == "required"
    assert first.body["tools"] == [{"type": "function", "function": refund.model_dump()}]
    assert len(first.body["messages"][0]["content"].split()) == 24


def test_a_text_to_be_written_once_more_is_what_it_is_asked_for():
    (text, *_), _ = prompts(JOBS.model_copy(update={"rewrites": True}), 1, 2.0)
    assert "once more" in text
    assert len(text.rsplit("\n\n", maxsplit=1)[1].split()) == 4


def test_kinds_take_turns():
    other = Kind(own_tokens=100, max_tokens=50)
    mixed = JOBS.model_copy(update={"also": (other,), "requests": 5})
    found, _ = requests(mixed, 1, 2.0)
    assert [r.body["max_tokens"] for r in found] == [5, 50, 5, 50, 5]
    assert mixed.model_copy(update={"clients": 99}).cells == 99 * (int(1.25 * 190) + 64)


def test_all_prompts_of_a_run_begin_alike_and_end_differently():
    texts, long = prompts(JOBS, 1, tokens_per_word=2.0)
    assert long is None
    words = [text.split() for text in texts]
    assert {len(w) for w in words} == {20 + 4}
    assert len({tuple(w[:20]) for w in words}) == 1
    assert len({tuple(w[20:]) for w in words}) == 3


def test_the_same_seed_gives_the_same_prompts_and_another_one_shares_nothing():
    first, again, other = (prompts(JOBS, seed, 2.0)[0] for seed in (1, 1, 2))
    assert first == again
    assert first[0].split()[:3] != other[0].split()[:3]


def test_a_long_prompt_is_as_long_as_asked():
    scenario = JOBS.model_copy(update={"intruder": Intruder(after=1.0, tokens=1000)})
    _, long = prompts(scenario, 1, tokens_per_word=4.0)
    assert long is not None
    assert len(long.split()) == 250


def test_however_long_a_word_is_nothing_is_left_out():
    texts, _ = prompts(JOBS, 1, tokens_per_word=100.0)
    assert [len(text.split()) for text in texts] == [2, 2, 2]
    assert len(sample().split()) == SAMPLE_WORDS


def test_cells_hold_all_clients_at_once():
    assert JOBS.cells == 8192
    many = JOBS.model_copy(update={"clients": 200})
    assert many.cells == 200 * LEAST_SLOT
    longer = many.model_copy(update={"shared_tokens": 400})
    assert longer.cells == 200 * (int(1.25 * 413) + 64)


GOOD = "{name: x, about: y, clients: 1, requests: 1, own_tokens: 1, max_tokens: 1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + ", cleints: 3}", "cleints: Extra inputs"),
        (GOOD.replace("clients: 1", "clients: 0") + "}", "clients: Input should be greater"),
        (GOOD + ", rate: -1}", "rate: Input should be greater"),
        (GOOD + ", goal: {ttft: 1.0}}", r"goal\.itl: Field required"),
        (GOOD + ", rewrites: true, json_schema: {}}", "takes one of"),
        ("[", "not valid YAML"),
        ("just text", "valid dictionary"),
    ],
)
def test_a_file_that_makes_no_sense_is_named_with_its_key(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_scenario(str(path))


def test_a_file_may_stand_anywhere(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "}")
    assert load_scenario(str(path)).name == "x"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_scenario(str(tmp_path / "other.yaml"))


def test_an_unknown_name_lists_the_known_ones():
    known = (
        "chat, extraction, long-prompt, many, mixed, neighbour, repetition, rewrite, shared-prefix"
    )
    with pytest.raises(ConfigError, match=known):
        load_scenario("nothing")


def test_a_long_prompt_comes_beside_the_clients_and_not_after_them():
    assert JOBS.concurrency == 2
    beside = JOBS.model_copy(update={"intruder": Intruder(after=1.0, tokens=1000)})
    assert beside.concurrency == 3
    assert beside.cells == max(8192, 3 * (int(1.25 * 1004) + 64))
