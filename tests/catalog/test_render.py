from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from local_worker.catalog.llama_parts import Wish
from local_worker.catalog.load import find, load
from local_worker.catalog.plan import plan
from local_worker.catalog.progress import Bar
from local_worker.catalog.render import render_list, render_model, render_plan
from local_worker.catalog.store import Present
from local_worker.probe.hardware import Cpu, Hardware, Memory

CATALOG = load()


def test_the_table_of_models():
    here = Present(find(CATALOG, "gemma-4-26b").weights[0], (Path("x"),), None, 1)
    lines = render_list(CATALOG, {"gemma-4-26b": [here]}).splitlines()
    assert len(lines) == 1 + len(CATALOG.models)
    assert lines[0].split() == [
        "MODEL",
        "PARAMETERS",
        "WEIGHTS",
        "SIZE",
        "CONTEXT",
        "THINKING",
        "HERE",
    ]
    assert lines[1].split() == [
        "gemma-4-26b",
        "25.2B",
        "(3.8B",
        "active)",
        "Q4_0-QAT",
        "14.4",
        "GB",
        "262,144",
        "off",
        "Q4_0-QAT",
    ]
    assert lines[-1].split()[:2] == ["demo", "1.5M"]


def test_one_model_with_what_is_not_confirmed():
    model = find(CATALOG, "qwen3.8-27b")
    here = Present(model.weights[0], (Path("x"),), None, 1)
    text = render_model(model, [here])
    for line in (
        "  licence       Apache-2.0",
        "  thinking      on by default, switched by enable_thinking; between '<think>' and",
        "    Q4_K_M  17.1 GB  unsloth/Qwen3.8-27B-GGUF  [here]",
        "      not confirmed: size: estimated from 8.5 bits per weight",
        "    Q4_0 (draft)  unknown  ggml-org/Qwen3.8-27B-GGUF",
        "  not confirmed",
        "    Shape: heads and feed-forward size are assumed equal to Qwen3.6-27B.",
        "low -> low, medium -> medium, high -> xhigh",
    ):
        assert line in text


def test_a_model_that_always_thinks_and_one_that_never_does():
    assert "always on; between '[THINK]'" in render_model(find(CATALOG, "ministral-3-3b-reasoning"))
    assert "thinking  " not in render_model(find(CATALOG, "ministral-3-3b"))


def test_every_model_renders():
    for model in CATALOG.models:
        assert render_model(model).startswith(f"{model.id}\n")


def test_a_plan_and_a_refusal():
    def text(gigabytes: float) -> str:
        size = int(gigabytes * 1e9)
        hardware = Hardware("linux", "6", Cpu("c", "x86_64", 2, 2.0), Memory(size, size))
        return render_plan(
            plan(hardware, find(CATALOG, "qwen3.5-4b"), Wish(), threads=2, others=CATALOG.models)
        )

    assert text(16).splitlines()[:2] == [
        "qwen3.5-4b",
        "  2.7 GB of weights in Q4_K_M (size estimated from bits per weight)",
    ]
    assert text(2.5).splitlines()[-1].startswith("  what fits is ")


def test_the_bar_counts():
    out = io.StringIO()
    with Bar(Console(file=out, force_terminal=True, width=120)) as bar:
        bar.advance(1)  # nothing has begun
        bar.start("model.gguf", 1_000_000, 250_000)
        bar.advance(750_000)
    assert "model.gguf" in out.getvalue()
    assert "1.0/1.0 MB" in out.getvalue()
