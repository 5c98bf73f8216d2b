"""The kernel in a process: before llama.cpp, and only where that is the one it was checked with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from local_worker.engines.llama_cpp.attention.build import UnavailableError, build, ggml_library

SCRIPT = """
from local_worker.engines.llama_cpp import native
print(native.use_attention(own=True))
print(native.use_attention(own=False))
"""


@pytest.fixture(scope="module")
def kernel():
    try:
        return build()
    except UnavailableError as error:
        pytest.skip(f"no kernel for this machine: {error}")


def said(script=SCRIPT, **environ):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_is_used_where_it_was_built(kernel):
    del kernel
    assert said() == ["None", "None"]


def test_it_is_not_used_where_it_was_not_built(tmp_path):
    why, other = said(XDG_CACHE_HOME=str(tmp_path))
    assert "it was not built" in why or "written for x86" in why or "lacks" in why
    assert other == "None"


def test_another_llama_cpp_than_it_was_checked_with_keeps_its_own(kernel, tmp_path):
    """`LD_LIBRARY_PATH` of a llama.cpp that was compiled elsewhere has that loaded into ours."""
    del kernel
    library = ggml_library()
    (tmp_path / library.name).write_bytes(library.read_bytes())
    why, other = said(LD_LIBRARY_PATH=str(tmp_path))
    assert "was loaded instead of" in why
    assert other == "None"


def test_a_file_that_is_no_library_is_no_reason_to_end(kernel, tmp_path):
    folder = tmp_path / "local-worker"
    folder.mkdir()
    (folder / kernel.name).write_text("garbage")
    why, _ = said(XDG_CACHE_HOME=str(tmp_path))
    assert kernel.name in why
