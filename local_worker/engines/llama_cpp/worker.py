"""The llama.cpp process: loads the model, runs the loop, reads commands.

Started by `process.ProcessEngine` with one end of a socket pair. One thread owns model, context and
scheduler (`loop`); another answers tokenizer calls itself (the vocabulary is read-only), hands the
rest to the loop's queue, and ends the process when the server is gone: an orphan would keep the
model's memory.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from local_worker.engines.llama_cpp import native
from local_worker.engines.llama_cpp.binding import Llama, NativeError
from local_worker.engines.llama_cpp.config import LlamaConfig
from local_worker.engines.llama_cpp.guides import Guides
from local_worker.engines.llama_cpp.kept import LONG, KeptPrefixes
from local_worker.engines.llama_cpp.layout import Layout, LayoutChooser
from local_worker.engines.llama_cpp.loop import EngineLoop
from local_worker.engines.llama_cpp.prefix_cache import Room
from local_worker.engines.llama_cpp.scheduler import Scheduler
from local_worker.engines.llama_cpp.shapes import StepShapes
from local_worker.engines.llama_cpp.states import FileStates, MemoryStates, identity_of
from local_worker.engines.process import messages, trial
from local_worker.engines.process.channel import open_channel
from local_worker.engines.process.commands import CommandReader
from local_worker.types import EngineInfo

if TYPE_CHECKING:
    from local_worker.engines.llama_cpp.states import States

log = logging.getLogger("local_worker")

SWITCH_SECONDS = 0.0005
"""After which a thread that tokenizes or checks a grammar gives way to the one that decodes: the
usual 5 ms are more than a small model's step takes."""

CACHED_SHARE = 0.25
"""Of the KV cells, that finished sequences may hold on to at the most."""


def describe(llama: Llama, config: LlamaConfig) -> EngineInfo:
    """What the server is told about the loaded model."""
    bos, eos = llama.bos_id(), llama.eos_id()
    return EngineInfo(
        engine="llama.cpp",
        version=native.version(),
        model_name=llama.metadata("general.name") or Path(config.model_path).stem,
        vocab_size=llama.vocab_size,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        kv_capacity=llama.kv_capacity,
        chat_template=llama.chat_template(),
        bos_token=llama.piece(bos, special=True).decode() if bos is not None else "",
        eos_token=llama.piece(eos, special=True).decode() if eos is not None else "",
        longest_token=llama.longest_token(),
        control_tokens=llama.control_tokens,
        pins=config.cache_slots > 0,
    )


def _kept_states(config: LlamaConfig, llama: Llama) -> tuple[KeptPrefixes, States]:
    """What is kept outside of the KV buffer, from earlier runs, too."""
    whole = llama.window is not None
    if config.cache_dir is None:
        memory = MemoryStates()
        return KeptPrefixes(config.max_kept_bytes, whole=whole, fetch=memory.fetch), memory
    whose = ("llama.cpp's", "own")
    attention, products = whose[llama.passes_over_cells], whose[llama.own_products]
    library = f"{native.version()}, {attention} attention, {products} products"
    identity = identity_of(Path(config.model_path), library, config.kv_type)
    files = FileStates(Path(config.cache_dir), identity)
    kept = KeptPrefixes(config.max_kept_bytes, whole=whole, unlent=LONG, fetch=files.fetch)
    ours, others = files.restore(kept)
    if others:
        log.warning(
            "%d of %d files in %s are of another model, build or cell type, or broken: ignored",
            others,
            ours + others,
            config.cache_dir,
        )
    return kept, files


def _scheduler(llama: Llama, config: LlamaConfig, kept: KeptPrefixes) -> Scheduler:
    max_cached_cells = int(llama.kv_capacity * CACHED_SHARE)
    # Prompts that nobody asks for again are copied out of the way only where they are in the way.
    cheap_cells = max_cached_cells if llama.passes_over_cells else config.cheap_cells
    room = Room(
        max_num_seqs=config.max_num_seqs,
        cache_slots=config.cache_slots,
        kv_capacity=llama.kv_capacity,
        max_cached_cells=max_cached_cells,
        cheap_cells=min(cheap_cells, max_cached_cells),
        window=llama.window,
    )
    layouts = LayoutChooser(
        Layout.UNIFIED,
        config.max_num_seqs,
        llama.kv_capacity,
        # Other memories and devices do not gain by it, or have not been seen to; nor does attention
        # that takes no time over cells of others.
        fixed=config.kv_layout != "auto"
        or llama.window is not None
        or config.gpu_layers != 0
        or llama.passes_over_cells,
    )
    return Scheduler(room, config.max_tokens_per_step, config.target_itl, kept, layouts)


def main() -> None:
    """Entry point of the child: `python -m local_worker.engines.llama_cpp.worker FD`."""
    channel = open_channel(sys.argv[1])
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.basicConfig(level=logging.INFO, format="local-worker: %(message)s")
    body = channel.receive()
    if body is None:
        return
    config = msgspec.msgpack.decode(body, type=LlamaConfig)
    try:
        llama = Llama(config)
    except NativeError as error:
        channel.send(messages.StartFailed(str(error)))
        return
    if native.why_not_own_kernels is not None:
        log.warning("kernels stay llama.cpp's: %s", native.why_not_own_kernels)
    ours = ("attention", llama.passes_over_cells), ("products", llama.own_products)
    if names := [name for name, is_own in ours if is_own]:
        log.info("kernels of our own compute %s", " and ".join(names))
    try:
        kept, states = _kept_states(config, llama)
    except OSError as error:
        channel.send(messages.StartFailed(f"--cache-dir {config.cache_dir}: {error.strerror}"))
        return
    channel.send(messages.Ready(describe(llama, config)))
    scheduler = _scheduler(llama, config, kept)
    shapes = StepShapes(
        config.threads,
        config.max_tokens_per_step,
        pads=llama.pads,
        fewer=config.gpu_layers == 0,
    )
    guides = Guides(llama)
    loop = EngineLoop(llama, scheduler, shapes, states, guides, channel)
    CommandReader(channel, llama, trial.Bounded(guides, llama), loop.submit, os._exit).start()
    loop.run()
    llama.close()


if __name__ == "__main__":
    main()
