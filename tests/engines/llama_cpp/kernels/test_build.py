"""When there is a kernel for a machine, and what is said where there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local_worker.engines.llama_cpp.kernels import build as built
from local_worker.engines.llama_cpp.kernels.build import NEEDED, UnavailableError, build, refusal

VERSION = "0.3.36"


@pytest.fixture
def environ(tmp_path, kernel):
    """Of a machine on which nothing was built yet."""
    del kernel
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    return {"XDG_CACHE_HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("system", "machine", "flags", "version", "said"),
    [
        ("Darwin", "arm64", NEEDED, VERSION, "this is arm64 under Darwin"),
        ("Linux", "aarch64", NEEDED, VERSION, "this is aarch64 under Linux"),
        ("Linux", "x86_64", {"avx2", "sse"}, VERSION, "the processor lacks f16c, fma"),
        ("Linux", "x86_64", NEEDED, "0.4.0", "it knows llama-cpp-python 0.3.36, and that is 0.4.0"),
        ("Linux", "x86_64", NEEDED, None, "and that is not installed"),
    ],
)
def test_machines_without_a_kernel_are_told_why(system, machine, flags, version, said):
    assert said in str(refusal(system, machine, flags, version))


def test_a_processor_with_the_instructions_has_one():
    assert refusal("Linux", "x86_64", NEEDED | {"avx512f"}, VERSION) is None


def test_it_is_built_once(environ, monkeypatch):
    path = build(environ)
    assert path.exists()
    assert path == built.kernel_file(environ)
    monkeypatch.setattr(built, "_run", lambda *_: pytest.fail("built again"))
    assert build(environ) == path


@pytest.mark.parametrize("left", [0, 70_000, None])
def test_what_is_not_as_it_was_checked_is_built_again(environ, left):
    """The power went, or the disk was full: loading a part of it would end the process."""
    path = build(environ)
    whole = path.read_bytes()
    path.write_bytes(b"another file" if left is None else whole[:left])
    assert build(environ) == path
    assert path.stat().st_size == len(whole)


def test_every_source_makes_another_file():
    here = Path(built.__file__).parent
    sources = {path.name for path in here.iterdir() if path.suffix in {".hpp", ".cpp", ".map"}}
    assert set(built.SOURCES) == sources


def test_another_source_is_another_file(environ, monkeypatch):
    before = built.kernel_file(environ)
    monkeypatch.setattr(built, "SOURCES", (*built.SOURCES, "build.py"))
    assert built.kernel_file(environ) != before


COMPILER = """#!{python}
import pathlib, subprocess, sys
arguments = sys.argv[1:]
at = next(i for i, argument in enumerate(arguments) if argument.endswith("hook.cpp"))
for source in pathlib.Path(arguments[at]).parent.glob("*.[hc]pp"):
    text = source.read_text().replace("{right}", "{wrong}")
    pathlib.Path("{folder}", source.name).write_text(text)
arguments[at] = "{folder}/hook.cpp"
sys.exit(subprocess.call(["c++", *arguments]))
"""


@pytest.mark.parametrize(
    ("right", "wrong", "operation"),
    [
        ("1.0f / sums_of_weights", "1.1f / sums_of_weights", "Shape"),
        ("most / 127.0f", "most / 126.0f", "Product"),
    ],
)
def test_nothing_is_left_of_a_kernel_that_is_wrong(environ, tmp_path, right, wrong, operation):
    """This compiler makes all results of one kind a little too large."""
    compiler = tmp_path / "c++"
    script = COMPILER.format(python=sys.executable, folder=tmp_path, right=right, wrong=wrong)
    compiler.write_text(script)
    compiler.chmod(0o755)
    said = rf"it does not pass its check: .* off for {operation}"
    with pytest.raises(UnavailableError, match=said):
        build({**environ, "CXX": str(compiler)})
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("no-such-compiler", "there is no C\\+\\+ compiler"),
        ("false", "it does not compile: exit status 1"),
    ],
)
def test_without_a_compiler_that_works_it_says_so(environ, compiler, said):
    with pytest.raises(UnavailableError, match=said):
        build({**environ, "CXX": compiler})


def test_a_folder_that_cannot_be_written_is_said(environ, tmp_path):
    (tmp_path / "local-worker").write_text("a file")
    with pytest.raises(UnavailableError, match="Not a directory"):
        build(environ)


def test_a_folder_that_others_can_write_to_is_not_trusted(environ):
    """What lies there is loaded into the process: somebody could have put it there."""
    path = build(environ)
    path.parent.chmod(0o770)
    with pytest.raises(UnavailableError, match="is open to others, or theirs: chmod 700"):
        build(environ)


def test_a_compiler_that_is_no_command_line_is_said(environ):
    with pytest.raises(UnavailableError, match="No closing quotation"):
        build({**environ, "CXX": '"'})


def test_a_llama_cpp_from_elsewhere_keeps_its_own(environ, tmp_path):
    with pytest.raises(UnavailableError, match="LLAMA_CPP_LIB_PATH names another"):
        build({**environ, "LLAMA_CPP_LIB_PATH": str(tmp_path)})


def test_nothing_but_the_hooks_is_to_be_seen_from_outside(environ):
    """llama.cpp has the same templates of the standard library, and is to take its own."""
    names = subprocess.run(
        ["nm", "-D", "--defined-only", "-g", str(build(environ))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {line.split()[-1] for line in names.splitlines()}
    assert found == {
        "ggml_compute_forward_flash_attn_ext",
        "ggml_cpu_extra_compute_forward",
        "ggml_cpu_extra_work_size",
        "local_worker_kernels_attentions",
        "local_worker_kernels_begin",
        "local_worker_kernels_multiply",
        "local_worker_kernels_products",
        "local_worker_kernels_use",
    }
