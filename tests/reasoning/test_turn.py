from __future__ import annotations

import pytest

from local_worker.reasoning.budget import Token
from local_worker.reasoning.turn import Stretch, Turn
from local_worker.types import (
    Channel,
    ClosedBy,
    FinishReason,
    GenerationRequest,
    Grammar,
    GrammarKind,
    SamplingParams,
    TextDelta,
    ThinkingParams,
    ThinkingTokens,
    TokenLogprob,
)

TOKENS = ThinkingTokens(start=(1,), end=(2,), close=(3, 2), close_after_newline=(2,))
PIECES = {1: b"<think>", 2: b"</think>", 3: b"\n", 0: b""}


def turn(max_tokens=100, stop=(), budget=None, thinking=False, inside=False, **sampling):
    params = ThinkingParams(TOKENS, budget, inside) if thinking else None
    request = GenerationRequest(
        "r", (9,), max_tokens, SamplingParams(**sampling), stop=stop, thinking=params
    )
    return Turn(request)


def run(t, *items):
    """Feeds pieces (0 is the end of generation); returns texts by channel and the finish."""
    texts = {Channel.REASONING: "", Channel.CONTENT: ""}
    force, finish = t.begin(), None
    for item in items:
        assert finish is None, "fed after the end"
        token_id, piece = (item, PIECES[item]) if isinstance(item, int) else (50, item)
        step = t.step(token_id, piece, ends_generation=item == 0)
        force += step.force
        for delta in step.deltas:
            texts[delta.channel] += delta.text
        finish = step.finish
    return texts[Channel.REASONING], texts[Channel.CONTENT], finish, force


def test_plain_content_until_the_end():
    t = turn()
    assert run(t, b"Li", b"ma", 0) == ("", "Lima", FinishReason.STOP, ())
    assert (t.num_tokens, t.num_reasoning_tokens) == (3, 0)


def test_max_tokens_is_exact():
    t = turn(max_tokens=2)
    assert run(t, b"Li", b"ma") == ("", "Lima", FinishReason.LENGTH, ())
    assert t.num_tokens == 2


def test_a_stop_string_ends_the_turn_and_is_not_shown():
    t = turn(stop=("ma",))
    assert run(t, b"Li", b"m", b"a!") == ("", "Li", FinishReason.STOP, ())
    assert t.stop == "ma"


def test_text_held_for_a_stop_string_is_released_at_the_end():
    assert run(turn(stop=("mat",)), b"Li", b"ma", 0)[1] == "Lima"


def test_min_tokens_holds_off_stop_strings():
    t = turn(stop=("a",), min_tokens=3)
    assert run(t, b"a", b"a", b"a")[1:3] == ("aa", FinishReason.STOP)


def test_thought_and_answer_come_apart():
    t = turn(thinking=True, budget=10, inside=True)
    assert run(t, b"so\n", 2, b"\n\nLima", 0) == ("so", "Lima", FinishReason.STOP, ())
    assert (t.num_tokens, t.num_reasoning_tokens, t.closed_by) == (4, 1, ClosedBy.MODEL)


def test_forced_tokens_count_as_output_but_not_as_thought():
    t = turn(thinking=True, budget=2, inside=True)
    reasoning, content, finish, force = run(t, b"a", b"b", b"\n", 2, b"Lima", 0)
    assert (reasoning, content, finish, force) == ("ab", "Lima", FinishReason.STOP, (3, 2))
    assert (t.num_tokens, t.num_reasoning_tokens, t.closed_by) == (8, 2, ClosedBy.BUDGET)


def test_a_closer_that_does_not_fit_ends_the_turn_by_length():
    t = turn(max_tokens=3, thinking=True, budget=2, inside=True)
    assert run(t, b"a", b"b")[2] is FinishReason.LENGTH
    assert t.num_tokens == 3


def test_the_end_of_generation_inside_a_thought_brings_the_answer():
    t = turn(thinking=True, budget=9, inside=True)
    reasoning, content, finish, force = run(t, b"a", 0, b"Lima", 0)
    assert (reasoning, content, finish, force) == ("a", "Lima", FinishReason.STOP, (3, 2))
    assert t.num_tokens == 5


def test_the_end_inside_a_thought_by_max_tokens_says_so():
    t = turn(max_tokens=2, thinking=True, budget=None, inside=True)
    assert run(t, b"a", b"b")[2] is FinishReason.LENGTH
    assert t.closed_by is ClosedBy.MAX_TOKENS


def test_logprobs_are_those_of_content_tokens():
    t = turn(thinking=True, budget=1, inside=True, logprobs=0)
    t.begin()
    logprob = TokenLogprob(50, b"x", -0.5)
    assert t.step(50, b"x", logprob=logprob).logprobs == ()
    assert t.step(50, b"x", logprob=logprob).logprobs == (logprob,)


def test_abandon_shows_what_was_held():
    t = turn(stop=("mat",))
    t.step(50, b"ma")
    assert [d.text for d in t.abandon()] == ["ma"]


@pytest.mark.parametrize("budget", [0, None])
def test_no_delimiter_reaches_the_content(budget):
    t = turn(thinking=True, budget=budget, inside=False)
    assert "think" not in run(t, 2, b"a", 2, b"b", 0)[1]


GRAMMAR = Grammar(GrammarKind.REGEX, "a", "guided_regex")


def grammar_turn(budget=None, inside=False, tokens=TOKENS, **more):
    thinking = None if tokens is None else ThinkingParams(tokens, budget, inside)
    t = Turn(GenerationRequest("r", (9,), 100, grammar=GRAMMAR, thinking=thinking, **more))
    t.begin()
    return t


@pytest.mark.parametrize(("tokens", "budget"), [(None, None), (TOKENS, 0)])
def test_without_a_thought_the_grammar_begins_at_once(tokens, budget):
    t = grammar_turn(budget, tokens=tokens)
    assert t.follows_grammar
    assert t.step(50, b"x").accepted


def test_the_grammar_waits_for_the_end_of_the_thought():
    t = grammar_turn(inside=True)
    assert not t.follows_grammar
    t.step(50, b"hm")
    assert not t.follows_grammar
    t.step(2, b"</think>")
    assert t.follows_grammar


def test_the_grammar_begins_after_a_forced_closer():
    t = grammar_turn(budget=1, inside=True)
    assert t.step(50, b"hm").force == (3, 2)
    assert t.follows_grammar


def test_a_first_token_that_opens_no_thought_is_drawn_again_from_the_grammar():
    t = grammar_turn()
    step = t.step(50, b"x")
    assert (step.accepted, step.force, step.finish) == (False, (), None)
    assert t.follows_grammar
    assert t.num_tokens == 0


def test_an_end_that_comes_first_is_drawn_again_too():
    t = grammar_turn()
    assert not t.step(0, b"", ends_generation=True).accepted
    assert t.follows_grammar


def test_a_thought_that_the_model_opens_is_free():
    t = grammar_turn()
    assert t.step(1, b"<think>").accepted
    assert not t.follows_grammar
    assert t.step(50, b"hm").accepted


def test_a_header_before_the_answer_comes_before_the_grammar():
    tokens = ThinkingTokens((1, 7), (2,), (3, 2), (2,), silent=((6, 7), (1, 8)))
    t = grammar_turn(inside=True, tokens=tokens)
    t.step(50, b"hm")
    for token_id in (2, 6):
        assert t.step(token_id, b"").accepted
        assert not t.follows_grammar
    assert t.step(7, b"").accepted
    assert t.follows_grammar


def test_what_only_began_like_a_header_is_no_part_of_the_answer():
    tokens = ThinkingTokens((1, 7), (2,), (3, 2), (2,), silent=((6, 7),))
    t = grammar_turn(budget=0, tokens=tokens)
    assert t.step(6, b"<|start|>").accepted
    assert not t.step(50, b"x").accepted
    assert t.step(51, b"a").deltas == (TextDelta(Channel.CONTENT, "a"),)


def test_a_tool_call_in_a_thought_cannot_end_it_where_the_answer_has_a_form():
    tokens = ThinkingTokens((1,), (2,), (3, 2), (2,), tool_start=(4,), tool_end=(5,))
    t = grammar_turn(inside=True, tokens=tokens)
    t.step(4, b"<tool_call>")
    assert not t.follows_grammar
    assert t.closed_by is ClosedBy.NONE


def test_an_answer_under_a_grammar_opens_no_thought():
    t = grammar_turn(budget=5, inside=True)
    t.step(2, b"</think>")
    assert t.step(1, b"<think>").accepted
    assert t.follows_grammar
    assert t.step(50, b"a").deltas[-1].channel is Channel.CONTENT


def words(*pieces):
    return tuple(Token(60 + i, piece) for i, piece in enumerate(pieces))


class Script:
    """A guide that has its stretches written down."""

    def __init__(self, begins=(), then=(), complete=False):
        self.begins, self.then, self.complete = begins, then, complete
        self.taken = []

    def begin(self):
        return Stretch(words(*self.begins), self.complete)

    def take(self, token_id):
        self.taken.append(token_id)
        return Stretch(words(*self.then), complete=True)


def guided(guide, *, budget=None, max_tokens=100, inside=None, **more):
    thinking = None if inside is None else ThinkingParams(TOKENS, budget, inside)
    request = GenerationRequest("r", (9,), max_tokens, grammar=GRAMMAR, thinking=thinking, **more)
    return Turn(request, guide)


def text_of(step):
    return "".join(d.text for d in step.deltas if d.channel is Channel.CONTENT)


def test_what_every_answer_begins_with_is_there_at_once():
    t = guided(Script(begins=(b'{"', b'a": ')))
    assert t.begin() == (60, 61)
    assert (t.num_tokens, t.num_jumped_tokens, t.over) == (2, 2, None)
    assert text_of(t.step(50, b"1")) == '{"a": 1'


def test_what_a_token_leaves_no_choice_about_comes_with_it_and_may_be_the_end():
    guide = Script(then=(b"}",))
    t = guided(guide)
    t.begin()
    step = t.step(50, b"1")
    assert (step.accepted, step.force, step.finish) == (True, (60,), FinishReason.STOP)
    assert text_of(step) == "1}"
    assert guide.taken == [50]


def test_an_answer_without_any_choice_is_over_before_it_begins():
    t = guided(Script(begins=(b"yes",), complete=True))
    t.begin()
    assert t.over is FinishReason.STOP
    assert [d.text for d in t.abandon()] == ["yes"]


@pytest.mark.parametrize(("room", "reason"), [(2, FinishReason.LENGTH), (3, FinishReason.STOP)])
def test_a_stretch_is_cut_at_max_tokens_and_one_that_just_fits_is_whole(room, reason):
    t = guided(Script(then=(b"b", b"c")), max_tokens=room)
    t.begin()
    step = t.step(50, b"a")
    assert (t.num_tokens, len(step.force), step.finish) == (room, room - 1, reason)


def test_a_stop_string_is_found_in_a_stretch():
    t = guided(Script(then=(b"b", b"c", b"d")), stop=("bc",))
    t.begin()
    step = t.step(50, b"a")
    assert (text_of(step), step.force, step.finish) == ("a", (60, 61), FinishReason.STOP)
    assert t.stop == "bc"


def test_the_answer_jumps_ahead_right_after_a_forced_closer():
    t = guided(Script(begins=(b"{",)), inside=True, budget=1)
    assert t.begin() == ()
    assert t.step(50, b"hm").force == (3, 2, 60)


def test_after_a_closer_of_its_own_comes_what_the_family_writes_there():
    tokens = ThinkingTokens((1,), (2,), (3, 2, 8), (2, 8))
    request = GenerationRequest(
        "r", (9,), 100, grammar=GRAMMAR, thinking=ThinkingParams(tokens, None, True)
    )
    t = Turn(request, Script(begins=(b"{",)))
    t.begin()
    step = t.step(2, b"</think>")
    assert (step.accepted, step.force) == (True, (8, 60))
    assert t.num_jumped_tokens == 1


def test_a_first_token_that_opens_no_thought_gives_way_to_what_has_to_come():
    t = guided(Script(begins=(b"{",)), inside=False)
    t.begin()
    assert t.may_begin_answer
    step = t.step(50, b"x")
    assert (step.accepted, step.force, text_of(step)) == (False, (60,), "{")
    assert not t.may_begin_answer


def test_a_token_of_the_thought_is_none_of_the_guides():
    guide = Script()
    t = guided(guide, inside=True)
    t.begin()
    t.step(50, b"hm")
    t.step(2, b"</think>")
    assert guide.taken == []


CALLING = ThinkingTokens((1,), (2,), (3, 2), (2,), tool_start=(4,), tool_end=(5,))


def calling(guide=None, grammar=None, **more):
    thinking = ThinkingParams(CALLING, 9, **more)
    request = GenerationRequest(
        "r", (9,), 100, thinking=thinking, grammar=grammar, calls_tools=True, stop=("x",)
    )
    t = Turn(request, guide, {4: b"<call>", 5: b"</call>"}.__getitem__)
    t.begin()
    return t


def deltas_of(t, *tokens):
    return [
        (str(delta.channel), delta.text)
        for token_id, piece in tokens
        for delta in t.step(token_id, piece).deltas
    ]


def test_a_call_goes_out_on_its_own_channel_with_its_delimiters_spelled():
    found = deltas_of(calling(), (50, b"so "), (4, b""), (50, b"fx()"), (5, b""), (50, b"."))
    assert found == [
        ("content", "so "), ("tool_call", "<call>"), ("tool_call", "fx()"),
        ("tool_call", "</call>"), ("content", "."),
    ]  # fmt: skip


def test_text_that_was_held_for_a_stop_string_comes_before_the_call():
    t = Turn(
        GenerationRequest(
            "r", (9,), 100, thinking=ThinkingParams(CALLING, 9), calls_tools=True, stop=("so not",)
        ),
        spell=lambda _: b"<call>",
    )
    assert deltas_of(t, (50, b"so "), (4, b"")) == [("content", "so "), ("tool_call", "<call>")]


def test_without_tools_a_call_is_text_as_before():
    t = turn(thinking=True, budget=9)
    assert run(t, b"<tool_call>", 0)[1] == "<tool_call>"


def test_what_a_grammar_leaves_no_choice_about_may_be_a_call():
    class Calls(Script):
        def begin(self):
            return Stretch((Token(4, b""), Token(60, b"f(")))

        def take(self, token_id):
            return Stretch((Token(61, b")"), Token(5, b"")), complete=True)

    t = calling(Calls(), GRAMMAR, starts_inside=True)
    t.step(50, b"hm")
    step = t.step(2, b"</think>")
    assert step.force == (4, 60)
    assert [(str(d.channel), d.text) for d in step.deltas] == [("tool_call", "<call>f(")]
    step = t.step(50, b"1")
    assert [d.text for d in step.deltas] == ["1)</call>"]
    assert step.finish is FinishReason.STOP


def test_a_header_that_the_model_has_written_is_not_written_again():
    tokens = ThinkingTokens((1, 7), (2,), (2, 6, 7), (2, 6, 7), silent=((6, 7),))
    t = grammar_turn(inside=True, tokens=tokens)
    for token_id in (2, 6):
        t.step(token_id, b"")
    assert t.step(7, b"").force == ()
    assert t.follows_grammar
