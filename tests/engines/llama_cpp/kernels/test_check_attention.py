"""Attention by the kernel: the exact results, and a row's whatever is beside it."""

from __future__ import annotations

import numpy as np
import pytest

from local_worker.engines.llama_cpp.kernels.check_attention import (
    Operands,
    Shape,
    exact,
    operands,
)


def test_results_are_exact_and_do_not_depend_on_what_is_beside_them(library, failures):
    sizes = [(32, 32), (64, 64), (128, 128), (256, 256), (192, 128), (512, 512), (80, 96)]
    heads = [(1, 1), (4, 4), (16, 8), (12, 4), (15, 3), (8, 1), (14, 2), (32, 4)]
    rng = np.random.default_rng(5)
    shapes = []
    for number in range(64):
        (key, value), (queries, kv) = sizes[number % 7], heads[number % 8]
        streams, rows = (1, int(rng.integers(1, 40))) if number % 3 else (3, 2)
        cells = int(rng.integers(rows, 700))
        sees = ("past", "any", "shared", "own", "woven", "weighted")[number % 6]
        shapes.append((streams, rows, cells, queries, kv, key, value, sees))
    assert failures(library, "Shape", shapes) == []


def test_more_cells_than_fit_any_cache(library, failures):
    """Nor are all scores held at once."""
    shapes = [(1, 2, 20_000, 8, 2, 64, 64, "past"), (1, 6, 50_000, 32, 1, 32, 32, "past")]
    assert failures(library, "Shape", shapes) == []


def test_exact_attention_by_hand():
    """Two cells with scores ln 3 and 0: the first has three quarters of the weight."""
    ones = np.ones((1, 1, 1, 1), np.float32)
    keys = np.array([np.log(3), 0.0]).reshape(1, 2, 1, 1)
    values = np.array([1.0, 5.0]).reshape(1, 2, 1, 1)
    mask = np.zeros((1, 1, 1, 2))
    assert exact(Operands(ones, keys, values, mask), 1.0).item() == pytest.approx(2.0)
    mask[..., 1] = -np.inf
    assert exact(Operands(ones, keys, values, mask), 1.0).item() == pytest.approx(1.0)


@pytest.mark.parametrize("sees", ["past", "any", "shared", "own", "woven", "weighted"])
def test_every_row_sees_something(sees):
    given = operands(Shape(2, 6, 100, 2, 1, 8, 8, sees))
    assert np.isfinite(given.mask).any(axis=-1).all()
    assert np.isinf(given.mask).any()
