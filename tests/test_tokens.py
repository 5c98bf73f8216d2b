from __future__ import annotations

import pytest

from local_worker.tokens import common_length


@pytest.mark.parametrize(
    ("a", "b", "length"), [("", "abc", 0), ("abc", "abc", 3), ("abx", "aby", 2), ("ab", "abc", 2)]
)
def test_common_length(a, b, length):
    assert common_length(a, b) == common_length(b, a) == length
