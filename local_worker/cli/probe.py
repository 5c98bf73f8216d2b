"""`local-worker probe`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from local_worker.catalog.llama_parts import LlamaPlan, Wish
from local_worker.catalog.load import load
from local_worker.catalog.plan import plan
from local_worker.probe.backend import choose_backend, threads_for
from local_worker.probe.report import render_text, to_json
from local_worker.probe.software import installed_engines
from local_worker.probe.survey import probe_hardware

if TYPE_CHECKING:
    import argparse

    from local_worker.probe.hardware import Hardware, Software


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `probe`."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--skip-bandwidth", action="store_true", help="do not measure memory bandwidth (1 s)"
    )


def run(options: argparse.Namespace) -> int:
    """Probes, decides, prints."""
    hardware = probe_hardware(measure_bandwidth=not options.skip_bandwidth)
    software = installed_engines()
    choice = choose_backend(hardware, software)
    plans = _plans(hardware, software)
    if options.json:
        report = to_json(hardware, software, choice)
        report["models"] = {name: _plan_json(found) for name, found in plans.items()}
        print(json.dumps(report, indent=2))
        return 0
    print(render_text(hardware, choice), end="")
    print("\nmodels that fit (predicted tokens/s of one stream, from memory bandwidth)")
    for name, found in plans.items():
        if found is not None:
            print(f"  {name:<22} {found.quant:<12} {_speed(found):>7}")
    return 0


def _plans(hardware: Hardware, software: Software) -> dict[str, LlamaPlan | None]:
    threads = threads_for(hardware.cpu)
    outcomes = {
        entry.id: plan(hardware, entry, Wish(), threads=threads, gpu=software.llama_cpp_gpu)
        for entry in load().models
    }
    return {
        name: found if isinstance(found, LlamaPlan) else None for name, found in outcomes.items()
    }


def _plan_json(found: LlamaPlan | None) -> dict[str, object]:
    if found is None:
        return {"fits": False}
    return {
        "fits": True,
        "quant": found.quant,
        "max_model_len": found.max_model_len,
        "max_num_seqs": found.max_num_seqs,
        "load_mode": found.load_mode,
        "predicted_tokens_per_s": found.predicted_tokens_per_s,
    }


def _speed(found: LlamaPlan) -> str:
    speed = found.predicted_tokens_per_s
    return "unknown" if speed is None else f"{speed:,.1f}"
