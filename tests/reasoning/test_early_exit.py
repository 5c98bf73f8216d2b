from __future__ import annotations

import math

import pytest

from local_worker.reasoning.early_exit import Confidence, Thought
from local_worker.types import TokenLogprob, Trace


def found(pieces, markers=("check",), *, opened=True):
    """Where each piece, a token of its own, was found to begin a line with a marker."""
    thought = Thought(markers, opened=opened)
    return [thought.add(Trace((number,), piece, True)) for number, piece in enumerate(pieces)]


def test_a_marker_at_the_beginning_of_a_line_is_found_with_what_came_before():
    assert found([b"1+1", b"=2", b"\n", b"check", b" it"]) == [None, None, None, 3, None]


def test_a_marker_of_several_tokens_is_found_when_it_is_whole():
    assert found([b"a", b"\n", b"ch", b"eck"]) == [None, None, None, 2]


@pytest.mark.parametrize(
    "pieces",
    [
        [b"no check", b"\n", b"x check"],  # not where a line begins
        [b"a\ncheck"],  # no token ends before it
        [b"a", b"\n", b"che", b"w"],
    ],
)
def test_what_is_no_turning_point_is_not_found(pieces):
    assert not any(at is not None for at in found(pieces))


def test_the_beginning_counts_where_the_thought_was_open_before():
    assert found([b"check"]) == [0]
    assert found([b"check"], opened=False) == [None]
    assert found([b"<think>", b"\n", b"check"], opened=False) == [None, None, 2]


def test_white_space_before_a_marker_is_no_matter():
    assert found([b"a\n\n", b" ", b"check"]) == [None, None, 1]


def test_an_empty_marker_is_every_line():
    assert found([b"a", b"\n", b"b", b"c"], markers=("",)) == [0, None, 2, None]


def test_where_no_thought_goes_on_nothing_is_found():
    """In the answer, and where the line may turn out to be the delimiter that ends the thought."""
    thought = Thought([""], opened=True)
    assert thought.add(Trace((1,), b"<", False)) is None
    assert thought.add(Trace((2,), b"so", True)) == 0


def test_tokens_are_kept_in_order():
    thought = Thought(["check"], opened=True)
    thought.add(Trace((7, 8), b"a", False))
    thought.add(Trace((), b"", False))
    thought.add(Trace((9,), b"b", False))
    assert thought.token_ids == [7, 8, 9]


def test_confidence_is_the_geometric_mean_of_the_best_probabilities():
    confidence = Confidence()
    assert confidence.value == 0.0
    confidence.add([TokenLogprob(1, b"a", math.log(0.9))])
    confidence.add([TokenLogprob(1, b"a", math.log(0.1), ((b"b", math.log(0.4)),))])
    assert confidence.count == 2
    assert confidence.value == pytest.approx(math.sqrt(0.9 * 0.4))
