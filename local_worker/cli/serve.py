"""`local-worker serve`."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_worker.catalog.llama_parts import Wish
from local_worker.catalog.load import load
from local_worker.catalog.lora import read_adapters
from local_worker.catalog.progress import Bar
from local_worker.catalog.store import Store, default_home
from local_worker.catalog.vllm_parts import Parallel, VllmWish
from local_worker.cli import accounts
from local_worker.cli.pins import read_pin
from local_worker.config import ServerConfig
from local_worker.engines.llama_cpp.config import LLAMA_CPP, OWN
from local_worker.errors import ConfigError
from local_worker.probe.software import installed_engines
from local_worker.probe.survey import probe_hardware
from local_worker.reasoning.effort import LEVELS
from local_worker.reasoning.routing import AUTO
from local_worker.rules import read_calibration, read_rules

if TYPE_CHECKING:
    import socket

    from local_worker.api.state import ApiState
    from local_worker.serve.resolved import Machine, Overrides, Resolved

_OWN_OPTIONS = {
    "model": "--model",
    "generation_config": "the request's own sampling parameters",
    "tensor_parallel_size": "--tensor-parallel",
    "pipeline_parallel_size": "--pipeline-parallel",
    "data_parallel_size": "--data-parallel",
    "max_model_len": "--context",
    "max_num_seqs": "--max-num-seqs",
}
"""Arguments that more than vLLM has to know about."""

API_KEY_VARIABLE = "LOCAL_WORKER_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `serve`; defaults are those of `config` and the plan."""
    d = ServerConfig()
    add = parser.add_argument
    add("--model", metavar="NAME|FILE.gguf|FOLDER",
        help="a catalog name, a GGUF file, or a folder of safetensors (default: demo)")  # fmt: skip
    add("--engine", choices=("llama_cpp", "vllm"),
        help="what computes; the probe and the kind of model decide unless you do")  # fmt: skip
    add("--host", default=d.host, help="address to bind (default: %(default)s)")
    add("--port", type=int, default=d.port, help="port; 0 picks a free one (default: %(default)s)")
    add("--api-key", action="append", default=[], metavar="KEY",
        help=f"ask clients for this key; may be repeated (also: ${API_KEY_VARIABLE})")  # fmt: skip
    add("--allow-open-network", action="store_true",
        help="bind beyond this machine without a key")  # fmt: skip
    add("--offline", action="store_true", help="never fetch weights")
    _add_plan_arguments(parser)
    _add_vllm_arguments(parser)
    _add_effort_arguments(parser)
    accounts.add_arguments(parser)
    add("--max-queue", type=int, default=d.max_queue, metavar="N",
        help="sequences running or waiting at the most (default: %(default)s)")  # fmt: skip
    add("--drain-seconds", type=float, default=d.drain_seconds, metavar="S",
        help="time for running requests after SIGTERM (default: %(default)s)")  # fmt: skip


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the plan decides unless you do")
    add = group.add_argument
    add("--context", type=int, metavar="N", help="tokens of one request, prompt and output")
    add("--max-num-seqs", type=int, metavar="N", help="sequences computed at a time")
    add("--skip-bandwidth", action="store_true",
        help="do not measure memory bandwidth (1 s, once per machine)")  # fmt: skip
    add("--quant", help="quantisation, as `models show` lists them")
    add("--kv-type", choices=("f16", "q8_0", "fp8"),
        help="type of the KV cache: f16, or smaller (llama.cpp: q8_0, vLLM: fp8)")  # fmt: skip
    add("--prefix-slots", type=int, metavar="N",
        help="llama.cpp: prompts kept for later ones that begin alike")  # fmt: skip
    add("--kv-layout", choices=("auto", "unified"), default="auto",
        help="llama.cpp: KV cells that sequences share, or, where attention is llama.cpp's and "
        "prompts turn out to share nothing, cells of their own (default: %(default)s)")  # fmt: skip
    add("--kernels", choices=(OWN, LLAMA_CPP), default=OWN,
        help="llama.cpp on x86 processors under Linux: whose kernels compute attention and "
        "products, this project's or llama.cpp's (default: %(default)s)")  # fmt: skip
    add("--pin-prefix", type=Path, action="append", default=[], metavar="FILE",
        help="llama.cpp: a system prompt (text), or messages (.json), to compute at start and "
        "keep for everybody; may be repeated")  # fmt: skip
    add("--cache-dir", type=Path, metavar="DIR",
        help="llama.cpp: keep prompts there that others began with, for the next start, "
        "too")  # fmt: skip
    add("--cache-gb", type=float, metavar="N",
        help="GB of prompts kept outside the KV cells (default: a 32nd of memory, "
        "at most 1, or 4 in --cache-dir)")  # fmt: skip
    add("--gpu-layers", type=int, metavar="N", help="layers on the GPU")
    add("--load-mode", choices=("memory", "mmap"), help="read the weights, or map the file")
    add("--threads", type=int, metavar="N", help="compute threads")
    add("--target-itl", type=float, metavar="MS",
        help="llama.cpp: milliseconds between a stream's tokens that prompts beside it may cause; "
        "0 sets no limit (default: two decode steps, and 8 at least)")  # fmt: skip
    add("--max-tokens-per-step", type=int, metavar="N", help="token budget of one decode step")
    add("--prompt-lookup", choices=("on", "off"), default="on",
        help="llama.cpp: guess tokens that were there before, and compute them along with the next "
        "one, where that pays (default: on)")  # fmt: skip


def _add_vllm_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("vLLM: several cards and machines, and its own arguments")
    add = group.add_argument
    add("--tensor-parallel", type=int, metavar="N",
        help="cards that share every layer (default: all of one kind)")  # fmt: skip
    add("--pipeline-parallel", type=int, metavar="N", help="stages that share the layers")
    add("--data-parallel", type=int, metavar="N", help="copies that share the requests")
    add("--nodes", type=int, metavar="N", help="machines, joined by Ray")
    add("--ray-address", metavar="HOST:PORT|auto", help="the head of the Ray cluster")
    add("--lora", action="append", default=[], metavar="NAME=FOLDER",
        help="a LoRA adapter (PEFT), served as a model of that name; may be repeated")  # fmt: skip
    add("--speculate", action="store_true",
        help="guess tokens ahead as the model's recipe has it (MTP, draft model)")  # fmt: skip
    add("--engine-arg", action="append", default=[], metavar="NAME=VALUE",
        help="an argument of vLLM's engine over the derived one; may be repeated")  # fmt: skip


def _add_effort_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("thinking effort")
    add = group.add_argument
    add("--max-thinking-tokens", type=int, metavar="N", help="ceiling over every thinking budget")
    add("--effort", "--default-effort", dest="effort", choices=(*LEVELS, AUTO),
        help="for clients that name none; auto asks the model how much it needs (default: the "
        "model's own, which is auto or none)")  # fmt: skip
    add("--effort-rules", type=Path, metavar="FILE.yaml",
        help="efforts for certain requests, before auto asks the model")  # fmt: skip
    add("--calibration", type=Path, metavar="FILE.yaml",
        help="the model's table of efforts, as `bench tasks --calibrate` writes it")  # fmt: skip
    add("--early-exit", choices=("on", "off"),
        help="whether auto may end a thought whose answer is settled (default: where it has been "
        "measured to pay)")  # fmt: skip
    add("--budget-message", default="", metavar="TEXT",
        help="text to put before the closer when a thought is cut")  # fmt: skip
    add("--allow-unenforced-effort", action="store_true",
        help="take effort levels although the self-test failed")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Serves until stopped."""
    logging.basicConfig(level=logging.WARNING, format="local-worker: %(message)s")
    config = _server_config(options)
    overrides = _overrides(options)
    # Here and not above: `serve --help` needs neither engine nor web framework.
    import uvloop

    from local_worker.serve.listen import bind

    listener = bind(config)
    with listener:
        machine = _machine(options)
        resolved = _resolve(options, overrides, machine)
        if options.calibration is not None:
            resolved = _calibrated(resolved, options.calibration)
        _say(f"model    {resolved.card.names[0]}")
        for reason in resolved.reasons:
            _say(f"         {reason}")
        kept = accounts.Accounts(options, machine.hardware, gpu=_on_gpu(resolved, machine))
        for line in kept.lines():
            _say(line)
        uvloop.run(_serve(resolved, config, kept, listener))
    return 0


async def _serve(
    resolved: Resolved, config: ServerConfig, kept: accounts.Accounts, listener: socket.socket
) -> None:
    from local_worker.serve.engines import make_engine

    engine = make_engine(resolved.config)
    await engine.launch()
    # The web framework takes as long to import as a small model to load: both at once.
    from local_worker.serve.server import Server

    await Server(kept.books(engine), resolved.card, config, _announce).run(listener)


def _announce(url: str, state: ApiState) -> None:
    test = state.model.self_test
    assert test is not None
    if test.problem is None:
        _say(f"effort   self-test passed ({test.summary})")
    else:
        served = "served all the same" if state.model.allow_unenforced else "refused"
        _say(
            f"effort   self-test FAILED: {test.problem}; requests that ask for effort are {served}"
        )
    _say(f"ready    {url}/v1  (OpenAI API; try: local-worker chat --url {url})")


def resolve(arguments: list[str]) -> Resolved:
    """What `serve` would load with these arguments.

    Raises:
        StartupError: it would not start.
    """
    parser = argparse.ArgumentParser(prog="local-worker serve")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    return _resolve(options, _overrides(options), _machine(options))


def _machine(options: argparse.Namespace) -> Machine:
    from local_worker.serve.resolved import DEFAULT_MODEL, Machine

    # A second is much for a model that loads in a tenth of it.
    measure = not options.skip_bandwidth and options.model not in (None, DEFAULT_MODEL)
    return Machine(probe_hardware(measure_bandwidth=measure), installed_engines())


def _calibrated(resolved: Resolved, path: Path) -> Resolved:
    """With the efforts of a file in place of the catalog's."""
    found, card = read_calibration(path), resolved.card
    if card.thinking is None or found.model.lower() not in map(str.lower, card.names):
        raise ConfigError(
            f"--calibration {path} is of {found.model!r}, and {card.names[0]!r} is to be served"
        )
    exits = card.thinking.early_exit
    if found.early_exit is not None:
        exits = exits.model_copy(update={"pays": found.early_exit})
    update = {"effort": dict(found.effort), "early_exit": exits}
    thinking = card.thinking.model_copy(update=update)
    return replace(resolved, card=replace(card, thinking=thinking))


def _on_gpu(resolved: Resolved, machine: Machine) -> bool:
    """Whether an NVIDIA card computes the model."""
    from local_worker.engines.llama_cpp.config import LlamaConfig

    if not machine.hardware.nvidia.gpus:
        return False
    if isinstance(resolved.config, LlamaConfig):
        return resolved.config.gpu_layers != 0
    return not (machine.software.vllm or "").endswith("+cpu")


def _resolve(options: argparse.Namespace, overrides: Overrides, machine: Machine) -> Resolved:
    from local_worker.serve.resolve import Resolver

    store = Store(default_home(os.environ))
    with Bar() as bar:
        resolver = Resolver(machine, load(), store, None if options.offline else bar)
        return resolver.resolve(options.model, overrides)


def _server_config(options: argparse.Namespace) -> ServerConfig:
    keys = [*options.api_key]
    if API_KEY_VARIABLE in os.environ:
        keys.append(os.environ[API_KEY_VARIABLE])
    if options.max_queue < 1:
        raise ConfigError("--max-queue must be at least 1")
    return ServerConfig(
        host=options.host,
        port=options.port,
        api_keys=tuple(keys),
        allow_open_network=options.allow_open_network,
        max_queue=options.max_queue,
        drain_seconds=options.drain_seconds,
        max_thinking_tokens=options.max_thinking_tokens,
        default_effort=options.effort,
        effort_rules=() if options.effort_rules is None else read_rules(options.effort_rules),
        early_exit=None if options.early_exit is None else options.early_exit == "on",
        budget_message=options.budget_message,
        allow_unenforced_effort=options.allow_unenforced_effort,
        pins=tuple(read_pin(path) for path in options.pin_prefix),
        include_cost=options.include_cost,
    )


def _overrides(options: argparse.Namespace) -> Overrides:
    from local_worker.serve.resolved import Overrides

    for name in ("threads", "max_tokens_per_step"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1")
    wish = Wish(
        context=options.context,
        max_num_seqs=options.max_num_seqs,
        quant=options.quant,
        kv_type=options.kv_type,
        gpu_layers=options.gpu_layers,
        load_mode=options.load_mode,
        cache_slots=options.prefix_slots,
    )
    target = options.target_itl
    if target is not None and not 0 <= target < math.inf:
        raise ConfigError("--target-itl is a number of milliseconds, or 0 for no limit")
    return Overrides(
        wish,
        threads=options.threads,
        max_tokens_per_step=options.max_tokens_per_step,
        target_itl=None if target is None else target / 1000,
        cache_dir=None if options.cache_dir is None else options.cache_dir.expanduser().resolve(),
        max_kept_bytes=_kept_bytes(options),
        kv_layout=options.kv_layout,
        kernels=options.kernels,
        prompt_lookup=options.prompt_lookup == "on",
        engine=options.engine,
        vllm=VllmWish(
            parallel=_parallel(options),
            engine_args=parse_engine_args(options.engine_arg),
            adapters=read_adapters(options.lora),
            speculate=options.speculate,
        ),
    )


def _kept_bytes(options: argparse.Namespace) -> int | None:
    size = options.cache_gb
    if size is None:
        return None
    if not 0 <= size < math.inf:
        raise ConfigError("--cache-gb is a number of GB, or 0 to keep nothing")
    return int(size * 1e9)


def _parallel(options: argparse.Namespace) -> Parallel:
    nodes = 1 if options.nodes is None else options.nodes
    if nodes > 1 and options.ray_address is None:
        raise ConfigError(
            "--nodes needs the Ray cluster that joins them: --ray-address HOST:PORT, or "
            "--ray-address auto on its head"
        )
    return Parallel(
        tensor=options.tensor_parallel,
        pipeline=options.pipeline_parallel,
        data=options.data_parallel,
        nodes=nodes,
        ray_address=options.ray_address,
    )


def parse_engine_args(pairs: list[str]) -> dict[str, Any]:
    """`name=value` pairs as arguments: a value is JSON where it reads as such, else text.

    Raises:
        ConfigError: not a pair, given twice, or an argument that has an option of its own.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not separator or not name.isidentifier():
            raise ConfigError(f"--engine-arg {pair!r} is not of the form name=value")
        if name in found:
            raise ConfigError(f"--engine-arg {name} is given twice")
        if name in _OWN_OPTIONS:
            raise ConfigError(f"--engine-arg {name}: use {_OWN_OPTIONS[name]}")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
