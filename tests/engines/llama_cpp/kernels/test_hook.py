"""The kernel in a process: before llama.cpp, and only where that is the one it was checked with."""

from __future__ import annotations

import os
import subprocess
import sys

from local_worker.engines.llama_cpp.kernels.build import ggml_library
from local_worker.engines.llama_cpp.kernels.hook import KERNELS

SCRIPT = """
from local_worker.engines.llama_cpp import native
print(native.own_kernels, native.why_not_own_kernels)
"""


def said(**environ):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_used_where_the_server_names_it(kernel):
    assert said(**{KERNELS: str(kernel)}) == "True None"


def test_it_is_not_used_where_nobody_does():
    assert said(**{KERNELS: ""}) == "False None"


def test_another_llama_cpp_than_it_was_checked_with_keeps_its_own(kernel, tmp_path):
    """`LD_LIBRARY_PATH` of a llama.cpp that was compiled elsewhere has that loaded into ours."""
    library = ggml_library()
    (tmp_path / library.name).write_bytes(library.read_bytes())
    answer = said(**{KERNELS: str(kernel), "LD_LIBRARY_PATH": str(tmp_path)})
    assert answer.startswith("False ")
    assert "was loaded instead of" in answer


def test_a_file_that_cannot_be_loaded_keeps_llama_cpps(tmp_path):
    """The disk was full, or the power went, when it was written."""
    broken = tmp_path / "kernels.so"
    broken.touch()
    assert said(**{KERNELS: str(broken)}) == f"False {broken}: file too short"
    broken.unlink()
    assert said(**{KERNELS: str(broken)}).startswith(f"False {broken}: cannot open shared object")
