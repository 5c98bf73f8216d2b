"""What every engine that can follow a grammar must do."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from local_worker.errors import InvalidParameterError
from local_worker.types import (
    Channel,
    ClosedBy,
    FinishReason,
    GenerationRequest,
    Grammar,
    GrammarKind,
    PromptSegment,
    SamplingParams,
    ThinkingParams,
    ThinkingTokens,
)

pytestmark = pytest.mark.anyio

CHAT = (
    "<|im_start|>user\nAdd up this invoice.\npens 3x14\ncups 2x9\nlamps 4x5<|im_end|>\n"
    "<|im_start|>assistant\n"
)
SCHEMA = {
    "type": "object",
    "properties": {
        "total": {"type": "integer", "minimum": 0, "maximum": 999},
        "sure": {"enum": ["yes", "no"]},
    },
    "required": ["total", "sure"],
    "additionalProperties": False,
}


def json_grammar(schema=SCHEMA):
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema), "response_format")


async def thinking(engine, budget, *, inside):
    async def ids(text):
        return await engine.tokenize([PromptSegment(text)])

    tokens = ThinkingTokens(
        await ids("<think>"), await ids("</think>"), await ids("\n</think>\n\n"),
        await ids("</think>\n\n"), await ids("<tool_call>"), await ids("</tool_call>"),
    )  # fmt: skip
    return ThinkingParams(tokens, budget, starts_inside=inside)


async def run(engine, grammar, request_id="r", text=CHAT, max_tokens=200, **fields):
    prompt = await engine.tokenize([PromptSegment(text)])
    fields.setdefault("sampling", SamplingParams(temperature=0))
    request = GenerationRequest(request_id, prompt, max_tokens, grammar=grammar, **fields)
    return [output async for output in engine.generate(request)]


def text_of(outputs, channel=Channel.CONTENT):
    return "".join(d.text for o in outputs for d in o.deltas if d.channel is channel)


def fits(text):
    found = json.loads(text)
    return set(found) == {"total", "sure"} and found["sure"] in ("yes", "no")


async def test_hot_answers_all_fit_the_schema(grammar_engine):
    hot = [SamplingParams(temperature=1.5, seed=i) for i in range(24)]
    runs = [run(grammar_engine, json_grammar(), f"r{i}", sampling=s) for i, s in enumerate(hot)]
    outputs = await asyncio.gather(*runs)
    finishes = {o[-1].finish.reason for o in outputs}
    assert finishes == {FinishReason.STOP}
    assert all(fits(text_of(o)) for o in outputs)
    assert len({text_of(o) for o in outputs}) > 1


@pytest.mark.parametrize("budget", [0, 1, 5, 40])
async def test_a_thought_is_free_and_its_answer_fits(grammar_engine, budget):
    outputs = await run(
        grammar_engine,
        json_grammar(),
        text=CHAT + "<think>\n",
        thinking=await thinking(grammar_engine, budget, inside=True),
    )
    assert outputs[-1].num_reasoning_tokens <= budget
    assert outputs[-1].finish.closed_by in (ClosedBy.BUDGET, ClosedBy.SOFT)
    assert fits(text_of(outputs))


async def test_a_thought_that_the_model_closes_is_followed_by_the_form(grammar_engine):
    outputs = await run(
        grammar_engine,
        json_grammar(),
        text=CHAT + "<think>\n",
        max_tokens=600,
        thinking=await thinking(grammar_engine, None, inside=True),
    )
    assert outputs[-1].finish.closed_by is ClosedBy.MODEL
    assert len(text_of(outputs, Channel.REASONING)) > 20
    assert fits(text_of(outputs))


async def test_the_model_may_open_a_thought_and_the_form_begins_after_it(grammar_engine):
    """A template that opens none leaves it to the model, which here always does."""
    (start,) = await grammar_engine.tokenize([PromptSegment("<think>")])
    outputs = await run(
        grammar_engine,
        json_grammar(),
        thinking=await thinking(grammar_engine, 20, inside=False),
        sampling=SamplingParams(temperature=0, logit_bias=((start, 40.0),)),
    )
    assert outputs[-1].num_reasoning_tokens > 0
    assert fits(text_of(outputs))


async def test_the_form_begins_at_once_where_the_model_opens_no_thought(grammar_engine):
    (start,) = await grammar_engine.tokenize([PromptSegment("<think>")])
    outputs = await run(
        grammar_engine,
        json_grammar(),
        thinking=await thinking(grammar_engine, 20, inside=False),
        sampling=SamplingParams(temperature=0, logit_bias=((start, -100.0),)),
    )
    assert outputs[-1].num_reasoning_tokens == 0
    assert fits(text_of(outputs))


@pytest.mark.parametrize(
    ("kind", "source", "pattern"),
    [
        (GrammarKind.REGEX, "[a-c]{3}-[0-9]{4}", "[a-c]{3}-[0-9]{4}"),
        (GrammarKind.CHOICE, '["grün", "a\\"b", "😀"]', 'grün|a"b|😀'),
        (GrammarKind.GRAMMAR, 'start: "x" NUM\nNUM: /[0-9]+/', "x[0-9]+"),
        (GrammarKind.GRAMMAR, 'root ::= "y" [0-9] "z"', "y[0-9]z"),
    ],
)
async def test_every_kind_of_grammar(grammar_engine, kind, source, pattern):
    grammar = Grammar(kind, source, "structured_outputs")
    await grammar_engine.check(grammar)
    for seed in range(4):
        sampling = SamplingParams(temperature=1, seed=seed)
        outputs = await run(grammar_engine, grammar, f"s{seed}", sampling=sampling)
        assert re.fullmatch(pattern, text_of(outputs))
        assert outputs[-1].finish.reason is FinishReason.STOP


async def test_an_answer_cut_by_max_tokens_says_length(grammar_engine):
    outputs = await run(grammar_engine, json_grammar(), max_tokens=3)
    assert outputs[-1].finish.reason is FinishReason.LENGTH
    assert outputs[-1].num_tokens == 3


async def test_a_stop_string_still_ends_the_answer(grammar_engine):
    outputs = await run(grammar_engine, json_grammar(), stop=('"sure"',))
    assert outputs[-1].finish.stop == '"sure"'
    assert "sure" not in text_of(outputs)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (GrammarKind.JSON_SCHEMA, '{"type": "objekt"}'),
        (GrammarKind.JSON_SCHEMA, '{"$ref": "http://example.com/x"}'),
        (GrammarKind.JSON_SCHEMA, '{"type": "string", "minLength": 5, "maxLength": 3}'),
        (GrammarKind.REGEX, "(a"),
        (GrammarKind.REGEX, "(?=a)b"),
        (GrammarKind.GRAMMAR, "start: unknown"),
        (GrammarKind.GRAMMAR, "::="),
        # The first number that both divide is 99 million: it would be looked for, for minutes.
        (GrammarKind.JSON_SCHEMA, '{"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}'),
    ],
)
async def test_a_grammar_that_cannot_be_followed_is_refused_by_its_field(
    grammar_engine, kind, source
):
    with pytest.raises(InvalidParameterError) as caught:
        await grammar_engine.check(Grammar(kind, source, "the_field"))
    assert caught.value.param == "the_field"
