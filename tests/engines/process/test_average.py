from __future__ import annotations

import pytest

from local_worker.engines.process.average import LEARNING, mixed


def test_the_first_value_is_the_average_and_the_others_move_it():
    assert mixed(None, 3.0, outlier=2.0) == 3.0
    assert mixed(10.0, 15.0, outlier=2.0) == pytest.approx(10 + 5 * LEARNING)
    assert mixed(10.0, 0.0, outlier=2.0) == pytest.approx(10 * (1 - LEARNING))


def test_an_outlier_counts_as_a_bounded_one():
    assert mixed(10.0, 1000.0, outlier=2.0) == mixed(10.0, 20.0, outlier=2.0)
