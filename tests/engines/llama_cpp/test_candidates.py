from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

from local_worker.engines.llama_cpp.candidates import (  # noqa: E402
    _pick,
    candidates,
    draw,
)
from local_worker.types import SamplingParams  # noqa: E402


def kept(logits, **params):
    """Ids and their shares of what is left, most probable first."""
    row = np.array(logits, np.float32)
    found, weights = candidates(row, SamplingParams(**params))
    ids = list(range(len(row))) if found is None else found.tolist()
    shares = (weights / weights.sum()).tolist()
    return sorted(zip(ids, shares, strict=True), key=lambda pair: (-pair[1], pair[0]))


def by_the_book(logits, *, temperature=1.0, top_k=0, min_p=0.0, top_p=1.0):
    """The same, one step after the other, over everything."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[: top_k or None]
    weights = [math.exp((logits[i] - logits[order[0]]) / temperature) for i in order]
    left = [(i, w) for i, w in zip(order, weights, strict=True) if w >= min_p]
    total, running, chosen = sum(w for _, w in left), 0.0, []
    for i, w in left:
        chosen.append((i, w))
        running += w
        if top_p < 1 and running >= top_p * total:
            break
    total = sum(w for _, w in chosen)
    return [(i, w / total) for i, w in chosen]


LOGITS = st.lists(
    st.integers(-300, 300).map(lambda n: n / 10), min_size=1, max_size=60, unique=True
)


@given(
    LOGITS,
    st.sampled_from([0.2, 1.0, 2.0]),
    st.sampled_from([0, 1, 3, 40, 500]),
    st.sampled_from([0.0, 0.013, 0.31]),
    st.sampled_from([0.037, 0.53, 0.951, 1.0]),
)
def test_it_is_what_the_steps_one_by_one_leave(logits, temperature, top_k, min_p, top_p):
    params = {"temperature": temperature, "top_k": top_k, "min_p": min_p, "top_p": top_p}
    every = kept(logits, **params), by_the_book(logits, **params)
    # What single precision cannot hold is never drawn.
    found, expected = ([(i, p) for i, p in some if p > 1e-30] for some in every)
    # Rounding may decide over the last one, where a sum or a share is at its bound.
    assert abs(len(found) - len(expected)) <= 1
    both = min(len(found), len(expected))
    assert [i for i, _ in found[:both]] == [i for i, _ in expected[:both]]
    if len(found) == len(expected):
        assert [p for _, p in found] == pytest.approx([p for _, p in expected], abs=1e-5)


def test_masked_tokens_are_never_drawn():
    row = [-math.inf, 1.0, -math.inf, 0.0]
    for params in ({}, {"top_k": 4}, {"top_k": 3}, {"top_p": 0.99}, {"min_p": 0.01}):
        assert {i for i, p in kept(row, **params) if p} == {1, 3}


def test_far_more_are_looked_at_where_the_best_are_few():
    row = np.full(1000, -50.0, np.float32)
    row[7] = 0.0
    found = kept(row, top_k=5)
    assert len(found) == 5
    assert found[0] == (7, 1.0)


@pytest.mark.parametrize(
    "params", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.2}, {"temperature": 0.5}]
)
def test_tokens_are_drawn_as_often_as_they_are_probable(params):
    logits = [1.0, 3.0, 2.0, 0.0, 2.5]
    sampling, random = SamplingParams(**params), np.random.default_rng(5)
    row, total = np.array(logits, np.float32), 20_000
    drawn = np.bincount([draw(row, sampling, random) for _ in range(total)], minlength=5) / total
    expected = dict(by_the_book(logits, **params))
    for token in range(5):
        share = expected.get(token, 0.0)
        error = math.sqrt(share * (1 - share) / total)
        assert abs(drawn[token] - share) <= 4 * error, (token, drawn, expected)


def test_a_large_vocabulary_is_drawn_from_in_the_same_way():
    """Block by block: over tokens in ten blocks of which one has most of the probability."""
    row = np.full(5120, -20.0, np.float32)
    row[[3, 2000, 2001, 5119]] = np.log([0.1, 0.2, 0.3, 0.4])
    random, total = np.random.default_rng(7), 20_000
    drawn = np.bincount([draw(row, SamplingParams(), random) for _ in range(total)], minlength=5120)
    shares = drawn[[3, 2000, 2001, 5119]] / total
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.015)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0 - 1e-16, 1.0])
def test_what_cannot_be_drawn_is_not_drawn_by_rounding(share):
    weights = np.zeros(2000, np.float32)
    weights[[700, 1500]] = 1.0
    assert weights[_pick(weights, share)] == 1.0
    assert weights[_pick(weights[:900], share)] == 1.0


def test_the_same_seed_draws_the_same():
    row, sampling = np.random.default_rng(1).normal(size=500).astype(np.float32), SamplingParams()
    one, other = (
        [draw(row, sampling, random) for _ in range(20)]
        for random in (np.random.default_rng(3), np.random.default_rng(3))
    )
    assert one == other
    assert len(set(one)) > 5
