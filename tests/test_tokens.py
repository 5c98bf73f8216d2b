from __future__ import annotations

import pytest

from local_worker.tokens import cached_tokens, common_length


@pytest.mark.parametrize(
    ("a", "b", "length"), [("", "abc", 0), ("abc", "abc", 3), ("abx", "aby", 2), ("ab", "abc", 2)]
)
def test_common_length(a, b, length):
    assert common_length(a, b) == common_length(b, a) == length


def test_a_token_counts_as_cached_where_nobody_computed_it():
    assert cached_tokens([5, 9], 1) == 5
    assert cached_tokens([5, 9, 0, 3], 2) == 5
    assert cached_tokens([5, 9, 0, 3], 4) == 17
