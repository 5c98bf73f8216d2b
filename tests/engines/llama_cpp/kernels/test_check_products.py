"""Products by the kernel: the exact results, and a row's whatever is beside it."""

from __future__ import annotations

import numpy as np
import pytest

from local_worker.engines.llama_cpp.kernels.check_products import PRODUCTS, quantised
from local_worker.engines.llama_cpp.kernels.ggml import Q4_0, Q4_K, Q6_K, Q8_0


def test_results_are_exact_and_do_not_depend_on_what_is_beside_them(kernel, failures):
    rng = np.random.default_rng(7)
    sizes = {Q4_0: 64, Q4_K: 256, Q6_K: 256, Q8_0: 64}
    together = {Q4_0: 8, Q4_K: 8, Q6_K: 1, Q8_0: 1}
    products = []
    for number in range(48):
        kind = (Q4_0, Q4_K, Q6_K, Q8_0)[number % 4]
        count = together[kind] * int(rng.integers(1, 200 // together[kind]))
        size = sizes[kind] * int(rng.integers(1, 1024 // sizes[kind]))
        experts = 0 if number % 3 else int(rng.integers(2, 9))
        uses = int(rng.integers(1, experts + 1)) if experts else 1
        products.append(
            (kind, int(rng.integers(1, 70)), count, size, experts, uses, number % 2 == 0)
        )
    assert failures(kernel, "Product", products) == []


def test_other_types_stay_ggmls(kernel, failures):
    q4_1, q5_k = 3, 13
    products = [(q4_1, 3, 16, 64), (q5_k, 3, 16, 256), (Q8_0, 3, 16, 64)]
    said = failures(kernel, "Product", products)
    assert [line.split(" for ")[0] for line in said] == ["ggml does not call it"] * 2


def test_all_formats_are_checked_with_and_without_experts():
    assert {one.kind for one in PRODUCTS if one.experts} == {Q4_0, Q4_K, Q6_K, Q8_0}
    for kind in (Q4_0, Q4_K, Q6_K, Q8_0):
        assert {one.rows for one in PRODUCTS if one.kind == kind} >= set(range(1, 9))


def test_quantised_by_hand():
    """A block's largest number is 127 units, and others are rounded to whole ones."""
    rows = np.zeros((1, 64), np.float32)
    rows[0, :3] = 12.7, -6.34, 0.04
    rows[0, 32:34] = 1.0, -254.0
    found = quantised(rows)
    assert found[0, :3] == pytest.approx([12.7, -6.3, 0.0], rel=1e-6)
    assert found[0, 32:34] == pytest.approx([0.0, -254.0])
    assert not found[0, 34:].any()
