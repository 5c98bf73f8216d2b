from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import pytest

np = pytest.importorskip("numpy")

from local_worker.engines.llama_cpp.sampling import BadLogitsError, Sampler  # noqa: E402
from local_worker.types import SamplingParams  # noqa: E402

if TYPE_CHECKING:
    from local_worker.engines.llama_cpp.binding import Llama


class Vocabulary:
    """Four tokens, the last of which ends the generation."""

    end_ids = frozenset({3})
    end_id_array = np.array([3])

    def piece(self, token_id, *, special=False):
        return b"abcd"[token_id : token_id + 1]


def greedy(logits, accepted=(), prompt=(), num_output=0, **params):
    vocabulary = cast("Llama", Vocabulary())
    sampler = Sampler(SamplingParams(temperature=0, **params), vocabulary, prompt)
    for token in accepted:
        sampler.accept(token)
    row = np.array(logits, np.float32)
    return (*sampler.sample(row, num_output), row)


def test_greedy_takes_the_most_probable():
    assert greedy([0, 3, 1, 2])[0] == 1


@pytest.mark.parametrize(
    ("params", "accepted", "prompt", "expected"),
    [
        ({"presence_penalty": 1.5}, [0, 0], [], [0.5, 1, -1, -4]),
        ({"frequency_penalty": 0.5}, [0, 0, 1], [], [1, 0.5, -1, -4]),
        ({"presence_penalty": 1, "frequency_penalty": 0.5}, [0, 0], [], [0, 1, -1, -4]),
        ({"presence_penalty": 1}, [], [0], [2, 1, -1, -4]),  # the prompt does not count
        ({"repeat_penalty": 2.0}, [0], [2], [1, 1, -2, -4]),  # here it does, and once
        ({"repeat_penalty": 2.0}, [0, 0], [], [1, 1, -1, -4]),
        ({"logit_bias": ((1, 3.0), (2, -1.0))}, [], [], [2, 4, -2, -4]),
        ({"min_tokens": 1}, [], [], [2, 1, -1, -math.inf]),
        ({"ignore_eos": True}, [], [], [2, 1, -1, -math.inf]),
    ],
)
def test_what_is_done_to_the_logits(params, accepted, prompt, expected):
    *_, row = greedy([2, 1, -1, -4], accepted, prompt, **params)
    assert row.tolist() == expected


def test_min_tokens_ends():
    assert greedy([0, 0, 0, 9], num_output=2, min_tokens=2)[0] == 3


def test_logprobs_are_the_models_own_whatever_the_bias():
    token, logprob, _ = greedy([0, 0, 0, 0], logprobs=2, logit_bias=((2, 50.0),))
    assert token == 2
    assert logprob.logprob == pytest.approx(math.log(1 / 4))
    assert [token for token, _ in logprob.top] == [b"a", b"b"]


def test_logprobs_without_alternatives():
    _, logprob, _ = greedy([0, 9, 0, 0], logprobs=0)
    assert (logprob.token, logprob.top) == (b"b", ())


@pytest.mark.parametrize("seed", [None, 3])
def test_a_temperature_draws_from_what_is_left_of_the_logits(seed):
    vocabulary = cast("Llama", Vocabulary())
    params = SamplingParams(temperature=1.0, seed=seed, logit_bias=((0, -100.0),))
    sampler = Sampler(params, vocabulary, ())
    row = [1, 1, 1, 1]
    drawn = [sampler.sample(np.array(row, np.float32), n)[0] for n in range(200)]
    assert set(drawn) == {1, 2, 3}


@pytest.mark.parametrize("logits", [[math.nan] * 4, [-math.inf] * 4, [math.nan, 0, 0, 0]])
def test_a_model_without_probabilities_is_an_error(logits):
    with pytest.raises(BadLogitsError):
        greedy(logits)
