"""Say in words what the planner chose, and what is missing when nothing fits. Pure text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_worker.catalog.memory import GB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_worker.catalog.llama_parts import LlamaPlan, Wish
    from local_worker.catalog.memory import Choice, Devices, Subject


def explain(
    subject: Subject, devices: Devices, wish: Wish, choice: Choice, speed: float | None
) -> Iterator[str]:
    """The reasons of a plan, a sentence each.

    Args:
        subject: the model.
        devices: the memory there is.
        wish: what was asked for.
        choice: what was decided.
        speed: predicted tokens per second, or None.

    Yields:
        Sentences without a full stop.
    """
    weights, placement = choice.weights, choice.placement
    size = f"{gigabytes(weights.total)} of weights in {weights.quant}"
    yield size if weights.exact else f"{size} (size estimated from bits per weight)"
    if weights is not subject.weights[0] and wish.quant is None:
        yield f"the recommended {subject.weights[0].quant} does not fit"
    yield _where(subject, devices, choice)
    yield _why_load_mode(devices, choice, wished=wish.load_mode is not None)
    if choice.kv_type == "q8_0" and wish.kv_type is None:
        yield f"keys and values in q8_0, so that {choice.max_model_len:,} tokens fit"
    yield (
        f"{choice.cells:,} cells of context, shared by up to {_sequences(choice.max_num_seqs)};"
        f" one request may use {choice.max_model_len:,}"
    )
    if not choice.sizes.cache_slots and wish.cache_slots is None:
        yield "no memory is left to keep the prompts of finished requests for later ones"
    if speed is not None:
        read = gigabytes(placement.host_read + placement.gpu_read)
        yield f"about {speed:.1f} tokens/s for one sequence: {read} are read for each token"
    else:
        yield "no speed is predicted: a bandwidth is not known, or the weights come from disk"


def _where(subject: Subject, devices: Devices, choice: Choice) -> str:
    placement = choice.placement
    available = devices.usable if choice.load_mode == "mmap" else devices.host
    host = f"{gigabytes(placement.host)} of {gigabytes(available)} main memory"
    if not placement.n_gpu_layers:
        return f"everything in main memory: {host}"
    if devices.unified:
        return (
            f"all layers on the GPU: {gigabytes(placement.host + placement.gpu)} of shared memory"
        )
    gpu = f"{gigabytes(placement.gpu)} of {gigabytes(devices.gpu)} GPU memory and {host}"
    if placement.n_cpu_moe:
        return f"the experts of {placement.n_cpu_moe} layers stay in main memory: {gpu}"
    if placement.n_gpu_layers > subject.shape.layers:
        return f"all layers on the GPU: {gpu}"
    return f"{placement.n_gpu_layers} of {subject.shape.layers} layers on the GPU: {gpu}"


def _why_load_mode(devices: Devices, choice: Choice, *, wished: bool) -> str:
    host = choice.placement.host
    if choice.load_mode == "memory":
        return "weights are read into memory: they fit, and nothing can take them away"
    if host > devices.usable:
        return (
            "weights are mapped from the file because that was asked for; they do not fit into"
            " memory and are read from disk again and again (0.44 instead of 10.1 tokens/s were"
            " measured for 14 GB)"
        )
    if wished and devices.reclaims:
        return (
            "weights are mapped from the file because that was asked for; in a virtual machine or"
            " container the page cache may be taken away (0.44 instead of 10.1 tokens/s measured)"
        )
    if wished:
        return "weights are mapped from the file because that was asked for"
    return "weights are mapped from the file: they fit, but with too little memory to spare"


def shortage(devices: Devices, cheapest: Choice) -> tuple[str, ...]:
    """What is missing, for the choice that needs the least memory."""
    placement, sizes = cheapest.placement, cheapest.sizes
    if placement.gpu > devices.gpu:
        need, have = gigabytes(placement.gpu), gigabytes(devices.gpu)
        return (f"{placement.n_gpu_layers} layers need {need} of GPU memory and {have} are free",)
    parts = (
        f"weights {gigabytes(cheapest.weights.total)}",
        f"context of {cheapest.max_model_len:,} tokens {gigabytes(sizes.state)}",
        f"buffers {gigabytes(sizes.compute)}",
    )
    need, have = gigabytes(placement.host), gigabytes(devices.host)
    beside = f" beside {gigabytes(devices.gpu)} of GPU memory" if devices.gpu else ""
    text = f"{cheapest.weights.quant} needs {need} of memory ({', '.join(parts)})"
    return (f"{text} and {have} can be used{beside}",)


def describe(found: LlamaPlan) -> str:
    """A plan as the nearest thing to a refused wish."""
    return (
        f"what fits is {found.model} in {found.quant} with a context of"
        f" {found.max_model_len:,} tokens for {_sequences(found.max_num_seqs)} in {found.kv_type}"
    )


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count} sequences"


def gigabytes(size: int) -> str:
    """A size for people: decimal gigabytes, or megabytes where it is small."""
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 1e6:.1f} MB"
