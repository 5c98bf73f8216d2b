from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_worker.reasoning.text import StopMatcher, TextStream
from local_worker.types import Channel, TextDelta


@pytest.mark.parametrize(
    ("stop", "parts", "shown", "matched"),
    [
        ((), ["ab", "c"], "abc", None),
        (("END",), ["to the E", "astEN", "D."], "to the East", "END"),
        (("END",), ["xEN"], "xEN", None),
        (("ab", "b"), ["xab"], "x", "ab"),
        (("abc", "b"), ["xab", "c"], "xa", "b"),
        (("\n\n",), ["one\n", "two\n", "\nthree"], "one\ntwo", "\n\n"),
        (("aab",), ["aaa", "b"], "a", "aab"),
    ],
)
def test_stop_strings_across_borders(stop, parts, shown, matched):
    stops = StopMatcher(stop)
    text = "".join(stops.feed(part) for part in parts)
    if stops.matched is None:
        text += stops.flush()
    assert (text, stops.matched) == (shown, matched)


@given(text=st.text(alphabet="ab\n", max_size=30), cuts=st.lists(st.integers(0, 30), max_size=5))
def test_cutting_the_stream_elsewhere_changes_nothing(text, cuts):
    whole = StopMatcher(("aba", "b\n"))
    expected = whole.feed(text)
    expected += whole.flush() if whole.matched is None else ""
    parts, borders = [], [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    for start, end in pairwise(borders):
        parts.append(text[start:end])
    stops = StopMatcher(("aba", "b\n"))
    shown = "".join(stops.feed(part) for part in parts)
    shown += stops.flush() if stops.matched is None else ""
    assert (shown, stops.matched) == (expected, whole.matched)


def test_characters_are_shown_whole():
    stream = TextStream()
    euro = "€".encode()
    assert [stream.content(euro[i : i + 1]) for i in range(3)] == ["", "", "€"]


def test_an_incomplete_character_at_the_end_becomes_a_replacement():
    stream = TextStream()
    stream.content(b"a\xe2\x82")
    assert stream.flush() == (TextDelta(Channel.CONTENT, "\ufffd"),)


def test_white_space_around_a_thought_belongs_to_nobody():
    stream = TextStream()
    thought = [stream.reasoning(p) for p in (b"\n", b" so", b" it is", b"\n\n")]
    stream.close_thought()
    answer = [stream.content(p) for p in (b"\n\n", b"Lima", b"\n", b"!")]
    assert "".join(thought) == "so it is"
    assert "".join(answer) == "Lima\n!"


def test_white_space_of_an_answer_without_a_thought_is_kept():
    stream = TextStream()
    assert stream.content(b"\n  Lima") == "\n  Lima"


def test_two_thoughts_are_set_apart_by_a_line_end():
    stream = TextStream()
    first = stream.reasoning(b"one\n")
    stream.close_thought()
    assert first + stream.reasoning(b"two") == "one\ntwo"


def test_stop_strings_are_not_searched_in_a_thought():
    stream = TextStream(("\n",))
    assert stream.reasoning(b"a\nb") == "a\nb"
    assert stream.stop is None
    stream.close_thought()
    assert stream.content(b"c\nd") == "c"
    assert stream.stop == "\n"
