"""Compiles the kernel for this processor, once: some seconds, with what compiled llama.cpp."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.probe.bandwidth import cache_file
from local_worker.probe.host import parse_cpuinfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

log = logging.getLogger(__name__)

BINDING = "llama-cpp-python"
VERSIONS = frozenset({"0.3.36"})
"""Of the binding, with the tensors that ggml.hpp knows."""

ELSEWHERE = "LLAMA_CPP_LIB_PATH"
"""With which the binding loads llama.cpp from somewhere else."""

SOURCES = (
    "vectors.hpp",
    "attention.hpp",
    "formats.hpp",
    "products.hpp",
    "ggml.hpp",
    "attention_op.hpp",
    "products_op.hpp",
    "hook.cpp",
    "exports.map",
)
NEEDED = frozenset({"avx2", "fma", "f16c"})
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC")
COMPILE_SECONDS, CHECK_SECONDS = 120, 120


class UnavailableError(Exception):
    """There is no kernel for this machine; the message says why."""


def refusal(system: str, machine: str, flags: Set[str], version: str | None) -> str | None:
    """Why the kernel cannot be used on such a machine; None where it can. Pure.

    Args:
        system: `platform.system()`.
        machine: `platform.machine()`.
        flags: the processor's features, as Linux spells them.
        version: of the binding; None where it is not installed.
    """
    if (system, machine) != ("Linux", "x86_64"):
        return f"it is written for x86 processors under Linux, and this is {machine} under {system}"
    if missing := sorted(NEEDED - flags):
        return f"the processor lacks {', '.join(missing)}"
    if version not in VERSIONS:
        found = "not installed" if version is None else version
        return f"it knows {BINDING} {', '.join(sorted(VERSIONS))}, and that is {found}"
    return None


def kernel_file(environ: Mapping[str, str]) -> Path:
    """The file that the kernel for this machine is in, once it is built.

    Another processor, another llama.cpp or another source is another file.

    Raises:
        UnavailableError: there is none for such a machine.
    """
    flags, version = _processor_flags(), _version()
    why = refusal(platform.system(), platform.machine(), flags, version)
    if why is None and environ.get(ELSEWHERE):
        why = f"{ELSEWHERE} names another llama.cpp than the one that it is checked with"
    if why is not None:
        raise UnavailableError(why)
    try:
        ggml, home = ggml_library().stat(), Path.home()
    except RuntimeError:
        raise UnavailableError("there is no home folder to keep it in") from None
    made_of = (FLAGS, sorted(flags), version, ggml.st_size, ggml.st_mtime_ns)
    key = hashlib.sha256(repr(made_of).encode())
    for source in SOURCES:
        key.update((Path(__file__).parent / source).read_bytes())
    return cache_file(environ, home).parent / "kernels" / f"{key.hexdigest()[:16]}.so"


def ggml_library() -> Path:
    """What computes on the processor, in the installed binding.

    Raises:
        UnavailableError: it is not where the binding has it.
    """
    try:
        package = importlib.metadata.distribution(BINDING).locate_file("llama_cpp")
    except importlib.metadata.PackageNotFoundError:
        raise UnavailableError(f"{BINDING} is not installed") from None
    found = Path(str(package)) / "lib" / "libggml-cpu.so.0"
    if not found.exists():
        raise UnavailableError(f"{found} is missing: llama.cpp was built in another way")
    return found


def build(environ: Mapping[str, str] = os.environ) -> Path:
    """Compiles the kernel and has it checked, unless that was done before.

    Raises:
        UnavailableError: there is none for this machine, no compiler, or its results are wrong; or
            others could put another file in its place.
    """
    try:
        path = kernel_file(environ)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_open(path.parent)
        if not _is_whole(path):
            log.warning("compiling kernels for this processor: some seconds, once")
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                fresh = Path(folder) / path.name
                compile_to(fresh, environ)
                _check(fresh)
                _digest_file(path).write_text(_digest(fresh), encoding="ascii")
                fresh.replace(path)
    except (OSError, ValueError) as error:  # of a $CXX that is no command line, too
        raise UnavailableError(str(error)) from error
    return path


def _is_whole(path: Path) -> bool:
    """Whether it is there as it was checked: part of one would end the process that loads it."""
    try:
        return _digest_file(path).read_text(encoding="ascii") == _digest(path)
    except (OSError, UnicodeDecodeError):
        return False


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_open(folder: Path) -> None:
    """What lies there is run: nobody else may be able to put anything there."""
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise UnavailableError(f"{folder} is open to others, or theirs: chmod 700 or remove it")


def compile_to(path: Path, environ: Mapping[str, str], flags: tuple[str, ...] = FLAGS) -> None:
    """Compiles it, with `$CXX` or `c++`.

    Raises:
        UnavailableError: there is no compiler, or it fails.
    """
    compiler = shlex.split(environ.get("CXX", "")) or ["c++"]
    if shutil.which(compiler[0]) is None:
        raise UnavailableError(f"there is no C++ compiler ({compiler[0]})")
    here = Path(__file__).parent
    # Nothing else of it is to take the place of anything: llama.cpp has the same std:: templates.
    exports = f"-Wl,--version-script={here / 'exports.map'}"
    command = [*compiler, *flags, exports, str(here / "hook.cpp"), "-o", str(path), "-ldl"]
    _run(command, COMPILE_SECONDS, "it does not compile")


def _check(path: Path) -> None:
    """In a process of its own: what lies elsewhere than hook.cpp believes may end it."""
    command = [sys.executable, "-m", f"{__package__}.check", str(path)]
    _run(command, CHECK_SECONDS, "it does not pass its check")


def _run(command: list[str], seconds: float, failure: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - the compiler, or this interpreter
            command, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{failure}: no end after {seconds} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        # A compiler names the error first and where it came from afterwards, Python the other way.
        words = next((line for line in said if "error:" in line), said[-1] if said else "")
        raise UnavailableError(f"{failure}: {words or f'exit status {done.returncode}'}")


def _processor_flags() -> frozenset[str]:
    try:
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8")).flags
    except OSError:
        return frozenset()  # another system than Linux: that is said first


def _version() -> str | None:
    try:
        return importlib.metadata.version(BINDING)
    except importlib.metadata.PackageNotFoundError:
        return None
