from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from local_worker.engines.llama_cpp.kernels.build import FLAGS, compile_to

NARROW = tuple(flag for flag in FLAGS if not flag.startswith("-march"))
AVX2 = (*NARROW, "-mavx2", "-mfma", "-mf16c")

SCRIPT = """
import json, sys
from pathlib import Path
from local_worker.engines.llama_cpp.kernels import check_attention, check_products
from local_worker.engines.llama_cpp.kernels.ggml import Ggml
from local_worker.engines.llama_cpp.kernels.hook import Hook
hook = Hook(Path(sys.argv[1]))
ggml = Ggml()
assert hook.begin() is None
kind, operations = json.load(sys.stdin)
if kind == "Product" and not hook.multiplies:
    raise SystemExit("none for this processor")
check, make = {
    "Shape": (check_attention, check_attention.Shape),
    "Product": (check_products, check_products.Product),
}[kind]
print(json.dumps([check.failure(hook, ggml, make(*values)) for values in operations]))
"""


@pytest.fixture(scope="module", params=["native", "avx2"])
def library(request, tmp_path_factory, kernel):
    """Compiled for this processor, and for one that has no wider registers than AVX2's."""
    if request.param == "native":
        return kernel
    path = tmp_path_factory.mktemp("kernel") / "avx2.so"
    compile_to(path, os.environ, AVX2)
    return path


@pytest.fixture(scope="session")
def failures():
    """What is wrong with operations, `Shape`s or `Product`s, in words.

    In a process of its own: here, llama.cpp may have been loaded before the kernel.
    """

    def found(library, kind, operations):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(library)],
            input=json.dumps([kind, operations]),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if "none for this processor" in done.stderr:
            pytest.skip("products need AVX-512 with VNNI")
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        assert len(results) == len(operations)
        return [failure for failure in results if failure is not None]

    return found
