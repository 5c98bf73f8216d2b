from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from llguidance import LLTokenizer

from local_worker.demo import families, gguf_path
from local_worker.engines.llama_cpp.guides import GuideError, Guides
from local_worker.engines.process.grammar import MOST_KNOWN, GrammarError
from local_worker.types import (
    FinishReason,
    GenerationRequest,
    Grammar,
    GrammarKind,
    PromptSegment,
    SamplingParams,
)

SIZE = 960
END = 931
NOW = [0.0]


@pytest.fixture(scope="module")
def tokenizer():
    return LLTokenizer((gguf_path().parent / "tokenizer.json").read_text(), eos_token=END)


@pytest.fixture
def guides(tokenizer):
    llama = SimpleNamespace(
        vocab_size=SIZE,
        piece=lambda token_id: tokenizer.decode_bytes([token_id]),
    )
    guides = Guides(llama, lambda: NOW[0])  # type: ignore[arg-type]
    guides._tokenizer = tokenizer
    return guides


def regex(source):
    return Grammar(GrammarKind.REGEX, source, "guided_regex")


def guide_of(guides, grammar, **sampling):
    return guides.guide(
        GenerationRequest("r", (1,), 99, SamplingParams(**sampling), grammar=grammar)
    )


def text_of(stretch):
    return b"".join(token.piece for token in stretch.tokens).decode()


def test_a_free_answer_has_no_guide(guides):
    assert guide_of(guides, None) is None


def test_what_has_to_come_comes_in_the_tokenizers_own_tokens(guides, tokenizer):
    stretch = guide_of(guides, regex("The total is [0-9]+")).begin()
    assert text_of(stretch) == "The total is "
    whole = tokenizer.tokenize_str("The total is 7")
    assert [token.token_id for token in stretch.tokens] == whole[: len(stretch.tokens)]


def test_with_logprobs_every_token_is_sampled(guides):
    assert guide_of(guides, regex("The total"), logprobs=0).begin().tokens == ()


def test_only_what_the_grammar_allows_is_not_banned(guides, tokenizer):
    guide = guide_of(guides, regex("[0-9]"))
    guide.begin()
    allowed = np.flatnonzero(~guide.banned())
    assert {tokenizer.decode_str([int(i)]) for i in allowed} == set("0123456789")
    assert guide.banned().shape == (SIZE,)


def test_the_end_is_allowed_where_the_answer_may_end_and_said_where_it_must(guides, tokenizer):
    guide = guide_of(guides, regex("[0-9]{1,2}"))
    guide.begin()
    (one,) = tokenizer.tokenize_str("1")
    assert guide.banned()[END]
    assert not guide.take(one).complete
    assert not guide.banned()[END]
    assert guide.take(one).complete


def test_a_token_that_the_grammar_forbids_is_an_error_and_not_a_wrong_answer(guides, tokenizer):
    guide = guide_of(guides, regex("[0-9]"))
    (letter,) = tokenizer.tokenize_str("x")
    with pytest.raises(GuideError, match="cannot be followed"):
        guide.take(letter)


def test_answers_to_one_grammar_do_not_share_their_place_in_it(guides, tokenizer):
    first, second = (guide_of(guides, regex("[0-9]x")) for _ in "ab")
    first.take(tokenizer.tokenize_str("1")[0])
    assert not second.banned()[tokenizer.tokenize_str("2")[0]]


def test_a_grammar_is_compiled_once_and_old_ones_are_forgotten(guides, monkeypatch):
    compiled = []

    def compile_it(grammar, _):
        compiled.append(grammar)
        return "a matcher"

    monkeypatch.setattr("local_worker.engines.llama_cpp.guides.compiled", compile_it)
    for number in range(MOST_KNOWN + 1):
        guides.check(regex(f"a{{{number}}}"))
    guides.check(regex("a{0}"))
    assert len(compiled) == MOST_KNOWN + 1, "a request may be on its way"
    NOW[0] += 60
    guides.check(regex("new"))
    guides.check(regex("a{0}"))
    assert len(compiled) == MOST_KNOWN + 2, "it was asked for later than others"
    guides.check(regex("a{1}"))
    assert len(compiled) == MOST_KNOWN + 3


def test_a_compiled_grammar_is_known_and_stays(guides, monkeypatch):
    monkeypatch.setattr("local_worker.engines.llama_cpp.guides.compiled", lambda *_: "a matcher")
    assert not guides.knows(regex("a"))
    guides.check(regex("a"))
    NOW[0] += 60
    assert guides.knows(regex("a"))
    for number in range(MOST_KNOWN):
        guides.check(regex(f"b{{{number}}}"))
    assert guides.knows(regex("a")), "a request that was told so may be on its way"


def test_what_cannot_be_followed_is_refused_every_time(guides):
    for _ in "ab":
        with pytest.raises(GrammarError):
            guides.check(regex("(a"))


# -- in the engine ---------------------------------------------------------------------------


def schema_of(answer):
    properties = {
        key: {"type": "integer" if isinstance(value, int) else "string"}
        for key, value in json.loads(answer).items()
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


async def run(engine, text, grammar, request_id="r", **more):
    prompt = await engine.tokenize([PromptSegment(text)])
    more.setdefault("sampling", SamplingParams(temperature=0))
    request = GenerationRequest(request_id, prompt, 200, grammar=grammar, traced=True, **more)
    outputs = [output async for output in engine.generate(request)]
    token_ids = [i for output in outputs if output.trace for i in output.trace.token_ids]
    return "".join(d.text for o in outputs for d in o.deltas), token_ids, outputs


def prompt_of(task):
    return (
        f"<|im_start|>user\n{task.messages[-1]['content']}<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n"
    )


@pytest.mark.llama
@pytest.mark.anyio
async def test_jumping_ahead_changes_no_token_of_the_models_own_answers(llama_engine):
    """Greedy, with logprobs (which nothing is jumped for) and without: the same tokens."""
    jumped = 0
    for index, task in enumerate(families.generate("extract", 5, 12)):
        grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema_of(task.answer)), "x")
        text, ids, outputs = await run(llama_engine, prompt_of(task), grammar, f"j{index}")
        slow = SamplingParams(temperature=0, logprobs=0)
        same = await run(llama_engine, prompt_of(task), grammar, f"s{index}", sampling=slow)
        assert json.loads(text).keys() == json.loads(task.answer).keys()
        assert text == same[0]
        # The one that ends a generation is sampled only where nothing can be jumped to.
        assert ids == same[1][: len(ids)]
        assert await llama_engine.tokenize([PromptSegment(text)]) == tuple(ids)
        assert len(outputs) < len(same[2])
        jumped += outputs[-1].finish.jumped_tokens
    assert jumped > 100


@pytest.mark.llama
@pytest.mark.anyio
@pytest.mark.parametrize(
    "grammar",
    [
        Grammar(GrammarKind.CHOICE, '["a<tool_call>b", "a</think>d"]', "x"),
        Grammar(GrammarKind.CHOICE, '["a<|im_end|>b"]', "x"),
        Grammar(GrammarKind.JSON_SCHEMA, '{"const": "a</think>b"}', "x"),
        Grammar(GrammarKind.CHOICE, json.dumps([f"value {i}" for i in range(5000)]), "x"),
    ],
)
async def test_texts_may_spell_control_tokens_and_be_many(llama_engine, grammar):
    await llama_engine.check(grammar)
    for sampling in (SamplingParams(temperature=1), SamplingParams(temperature=1, logprobs=1)):
        text, ids, outputs = await run(llama_engine, "Hi", grammar, sampling=sampling)
        assert outputs[-1].finish.reason is FinishReason.STOP
        source = json.loads(grammar.source)
        if grammar.kind is GrammarKind.CHOICE:
            assert text in source
        else:
            assert json.loads(text) == source["const"]
        for spelling in ("</think>", "<tool_call>"):
            (control,) = await llama_engine.tokenize([PromptSegment(spelling)])
            assert control not in ids


@pytest.mark.llama
@pytest.mark.anyio
async def test_an_answer_without_a_choice_takes_no_step(llama_engine):
    steps = llama_engine.stats().steps
    grammar = Grammar(GrammarKind.CHOICE, '["The total is 7."]', "x")
    text, _, outputs = await run(llama_engine, "Hi", grammar)
    assert text == "The total is 7."
    finish = outputs[-1].finish
    assert finish.reason is FinishReason.STOP
    assert finish.jumped_tokens == outputs[-1].num_tokens > 3
    assert llama_engine.stats().steps == steps


AMBIGUOUS = Grammar(
    GrammarKind.GRAMMAR,
    "start: s\ns: A s A s A | s s | s s s s | A\nA: /[a-z ]/",
    "structured_outputs.grammar",
)


def follow(guide, letter, steps):
    for step in range(500):
        steps.append(step)
        guide.banned()
        guide.take(letter)


def test_a_grammar_that_takes_too_long_to_follow_ends_the_answer(guides, tokenizer, monkeypatch):
    monkeypatch.setattr("local_worker.engines.llama_cpp.guides.MOST_SECONDS", 0.2)
    guide = guide_of(guides, AMBIGUOUS)
    guide.begin()
    (letter,) = tokenizer.tokenize_str("a")
    steps: list[int] = []
    with pytest.raises(GuideError, match="too long to follow"):
        follow(guide, letter, steps)
    assert len(steps) > 1


def test_a_usual_one_is_followed_for_as_long_as_it_takes(guides, tokenizer, monkeypatch):
    monkeypatch.setattr("local_worker.engines.llama_cpp.guides.MOST_SECONDS", 0.2)
    guide = guide_of(guides, regex("[a-z]+"))
    guide.begin()
    (letter,) = tokenizer.tokenize_str("a")
    steps: list[int] = []
    follow(guide, letter, steps)
    assert len(steps) == 500
