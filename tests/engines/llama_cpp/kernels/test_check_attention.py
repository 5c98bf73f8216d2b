"""The kernel's results: the exact ones, and a row's whatever is beside it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from local_worker.engines.llama_cpp.attention.build import FLAGS, compile_to
from local_worker.engines.llama_cpp.attention.check import Operands, Shape, exact, operands

NARROW = tuple(flag for flag in FLAGS if not flag.startswith("-march"))
AVX2 = (*NARROW, "-mavx2", "-mfma", "-mf16c")

SCRIPT = """
import sys
from pathlib import Path
from local_worker.engines.llama_cpp.attention.check import Ggml, Shape, failure
from local_worker.engines.llama_cpp.attention.hook import Hook
hook = Hook(Path(sys.argv[1]))
ggml = Ggml()
assert hook.begin() is None
for line in sys.stdin:
    shape = Shape(*map(int, line.split()[:7]), line.split()[7])
    print(shape, failure(hook, ggml, shape))
"""


@pytest.fixture(scope="module", params=["native", "avx2"])
def library(request, tmp_path_factory, kernel):
    """Compiled for this processor, and for one that has no wider registers than AVX2's."""
    if request.param == "native":
        return kernel
    path = tmp_path_factory.mktemp("kernel") / "attention.so"
    compile_to(path, os.environ, AVX2)
    return path


def failures(library, shapes):
    """In a process of its own: here, llama.cpp may have been loaded before the kernel."""
    lines = "\n".join(" ".join(map(str, shape)) for shape in shapes)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(library)],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    results = done.stdout.splitlines()
    assert len(results) == len(shapes)
    return [line for line in results if not line.endswith(" None")]


def test_results_are_exact_and_do_not_depend_on_what_is_beside_them(library):
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
    assert failures(library, shapes) == []


def test_more_cells_than_fit_any_cache(library):
    """Nor are all scores held at once."""
    shapes = [(1, 2, 20_000, 8, 2, 64, 64, "past"), (1, 6, 50_000, 32, 1, 32, 32, "past")]
    assert failures(library, shapes) == []


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
