"""Calls rendered as each family's template lays them out, and parsed back at every split."""

from __future__ import annotations

import json
import random

import pytest

from local_worker.toolcalls.events import Arguments, Begun, Malformed, Tool
from local_worker.toolcalls.formats import parser_of

CALLS = 200
TEXTS = (
    "A7", "", "Zürich 東京 😀", 'he said "no"', "it's", "two\nlines", "a\\b", "tab\there",
    "{", "}]", "x: y, z", "<b>bold</b>",
    "[ARGS]{}", "</parameter>", "123", "true", "null", " spaced ", "1,2",
)  # fmt: skip
NAMES = ("get_stock", "search", "f", "a.b-c")


def draw_value(rng, depth=0):
    kinds = "text number float bool none" + (" list object" if depth < 3 else "")
    kind = rng.choice(kinds.split())
    if kind == "list":
        return [draw_value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == "object":
        return {f"k{i}": draw_value(rng, depth + 1) for i in range(rng.randrange(3))}
    simple = {
        "text": rng.choice(TEXTS),
        "number": rng.randint(-99, 10**12),
        "bool": rng.random() < 1 / 2,
    }
    return simple.get(kind, rng.random() * 10 ** rng.randint(-9, 9) if kind == "float" else None)


def schema_of(value):
    types = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array",
             dict: "object", type(None): "null"}  # fmt: skip
    return {"type": types[type(value)]}


def draw_calls(seed):
    """Calls as (name, arguments), and the tools they are to."""
    rng = random.Random(seed)
    names = rng.sample(NAMES, rng.choice((1, 1, 1, 2, 3)))
    calls = [
        (name, {f"arg_{i}": draw_value(rng) for i in range(rng.randrange(4))}) for name in names
    ]
    tools = {
        name: Tool(name, {"properties": {k: schema_of(v) for k, v in arguments.items()}})
        for name, arguments in calls
    }
    return calls, tools


def to_json(value):
    return json.dumps(value, ensure_ascii=False)


def hermes(calls):
    return "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {to_json(arguments)}}}\n</tool_call>'
        for name, arguments in calls
    )


def mistral(calls):
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{to_json(a)}" for name, a in calls)


def harmony(calls):
    header = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
    return "<|start|>assistant".join(header.format(name, to_json(a)) for name, a in calls)


def qwen_xml(calls):
    """As its template does: texts as they are, mappings and lists as JSON, the rest by str."""

    def text(value):
        return to_json(value) if isinstance(value, dict | list) else str(value)

    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={k}>\n{text(v)}\n</parameter>\n" for k, v in arguments.items())
        + "</function>\n</tool_call>"
        for name, arguments in calls
    )


def gemma(calls):
    def text(value):
        if isinstance(value, str):
            return f'<|"|>{value}<|"|>'
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, dict):
            return "{" + ",".join(f"{k}:{text(v)}" for k, v in sorted(value.items())) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(text, value)) + "]"
        return str(value)

    return "".join(f"<|tool_call>call:{name}{text(a)}<tool_call|>" for name, a in calls)


LAYOUTS = {
    "hermes": hermes,
    "mistral": mistral,
    "harmony": harmony,
    "qwen-xml": qwen_xml,
    "gemma": gemma,
}


def read(parser, *pieces):
    """What a client is told: calls, and what was none."""
    events = [e for piece in pieces for e in parser.feed(piece)] + parser.end()
    calls, malformed = [], []
    for event in events:
        if isinstance(event, Begun):
            calls.append([event.name, ""])
        elif isinstance(event, Arguments):
            calls[-1][1] += event.text
        else:
            malformed.append(event.text)
    return [(name, json.loads(arguments)) for name, arguments in calls], malformed


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("name", LAYOUTS)
def test_calls_come_back_as_they_were_whole_and_at_every_split(name, streams):
    for seed in range(CALLS):
        calls, tools = draw_calls(seed)
        text = LAYOUTS[name](calls)
        assert read(parser_of(name, tools, streams=streams), text) == (calls, [])
        for at in range(1, len(text)):
            found = read(parser_of(name, tools, streams=streams), text[:at], text[at:])
            assert found == (calls, []), (seed, at)


@pytest.mark.parametrize("name", LAYOUTS)
def test_calls_come_back_character_by_character(name):
    for seed in range(CALLS):
        calls, tools = draw_calls(seed)
        found = read(parser_of(name, tools, streams=True), *LAYOUTS[name](calls))
        assert found == (calls, [])


@pytest.mark.parametrize("name", LAYOUTS)
def test_arguments_are_streamed_while_they_are_written(name):
    tools = {"f": Tool("f", {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}})}
    text = LAYOUTS[name]([("f", {"a": "one", "b": "two"})])
    parser = parser_of(name, tools, streams=True)
    events = parser.feed(text[: text.index("two")])
    assert events[0] == Begun("f")
    assert "one" in "".join(e.text for e in events if isinstance(e, Arguments))
    buffered = parser_of(name, tools, streams=False)
    assert buffered.feed(text[: text.index("two")]) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {a: 1}}\n</tool_call>'),
        ("hermes", "<tool_call>\nf(1)\n</tool_call>"),
        ("hermes", '<tool_call>\n{"name": "f", "argum'),
        ("mistral", "[TOOL_CALLS]f[ARGS]{a}"),
        ("mistral", "[TOOL_CALLS][1]"),
        ("harmony", "<|channel|>commentary to=functions.f <|message|>not json<|call|>"),
        ("qwen-xml", "<tool_call>\n<function=f>\nA7\n</function>\n</tool_call>"),
        ("qwen-xml", "<tool_call>\n<function=f>\n<parameter=a>\nA7"),
        ("gemma", "<|tool_call>call:f{a:wrong}<tool_call|>"),
        ("gemma", "<|tool_call>stock(A7)<tool_call|>"),
        ("gemma", '<|tool_call>call:f{a:<|"|>A7'),
    ],
)
def test_what_is_no_call_is_given_back_word_for_word(name, text):
    assert read(parser_of(name, {}, streams=False), text) == ([], [text])


@pytest.mark.parametrize("name", ["hermes", "qwen-xml", "gemma"])
def test_a_good_call_after_a_bad_one_is_found(name):
    bad = {"hermes": "<tool_call>f()</tool_call>", "qwen-xml": "<tool_call>f()</tool_call>",
           "gemma": "<|tool_call>f()<tool_call|>"}[name]  # fmt: skip
    good = LAYOUTS[name]([("f", {"a": 1})])
    tools = {"f": Tool("f", {"properties": {"a": {"type": "integer"}}})}
    assert read(parser_of(name, tools, streams=False), bad + good) == ([("f", {"a": 1})], [bad])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>'),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]'),
        ("mistral", '[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"a": 1}'),
        ("harmony", '<|channel|>commentary to=functions.f<|message|>{"a": 1}'),
    ],
)
def test_other_spellings_of_a_layout(name, text):
    assert read(parser_of(name, {}, streams=False), text) == ([("f", {"a": 1})], [])


def test_a_call_without_arguments_in_its_object_has_none():
    text = '<tool_call>{"name": "f"}</tool_call>'
    assert read(parser_of("hermes", {}, streams=True), text) == ([("f", {})], [])


def test_what_was_cut_off_while_it_streamed_is_not_said_twice():
    parser = parser_of("hermes", {}, streams=True)
    events = parser.feed('<tool_call>\n{"name": "f", "arguments": {"a": ')
    assert events == [Begun("f"), Arguments('{"a": ')]
    assert parser.end() == [Malformed("")]


def test_a_malformed_call_says_what_it_was():
    assert parser_of("gemma", {}, streams=True).feed("<|tool_call>?<tool_call|>") == [
        Malformed("<|tool_call>?<tool_call|>")
    ]


@pytest.mark.parametrize("text", ["call:f{a:b:1,c:2}", "call:f{a:oops}"])
def test_a_broken_call_in_pieces_is_as_broken(text):
    whole = f"<|tool_call>{text}<tool_call|>"
    assert read(parser_of("gemma", {}, streams=False), *whole) == ([], [whole])


def test_harmony_may_leave_out_a_word():
    text = '<|channel|>commentary to=functions.f json<|message|>{"a": 1}<|call|>'
    assert read(parser_of("harmony", {}, streams=False), text) == ([("f", {"a": 1})], [])
