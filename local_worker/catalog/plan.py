"""Decide how to load a model on a machine: pure, from facts to a plan or a refusal with reasons.

What the user wished is taken as it is or refused with what would work instead, never bent. What
was left open is chosen: the recommended weights before smaller ones, the GPU before main memory,
f16 keys and values before q8_0, a long context before a short one.

Weights are read into memory where they fit. Mapping them from the file instead leaves them in the
page cache, which a virtual machine or a container may take away at any time: 14 GB of weights
decoded at 0.44 tokens/s mapped and at 10.1 tokens/s in memory, on the same machine (measured).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from local_worker.catalog.explain import describe, explain, shortage
from local_worker.catalog.llama_parts import LlamaPlan, Refusal, Wish
from local_worker.catalog.memory import (
    KV_TYPES,
    LOAD_MODES,
    Choice,
    MemoryNeed,
    cache_slots_to_try,
    cheap_cells_of,
    devices_of,
    on_both,
    on_gpu,
    on_host,
    sizes_of,
    subject_of,
    tokens_per_second,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from local_worker.catalog.gguf_facts import GgufFacts
    from local_worker.catalog.memory import (
        Devices,
        KvType,
        LoadMode,
        Placement,
        Sizes,
        Subject,
        Weights,
    )
    from local_worker.catalog.schema import ModelEntry, Shape
    from local_worker.probe.hardware import Hardware

DEFAULT_MAX_MODEL_LEN = 32_768
_MIN_MODEL_LEN = 4_096
DEFAULT_MAX_NUM_SEQS = 8  # where the CPU kernels step up: batch 7 gave 70 tokens/s, 8 gave 135
MAX_SLOTS = 256  # LLAMA_MAX_SEQ
_FULL_LENGTH_SEQS = 4  # sequences that should be able to use the full length at the same time


def plan(
    hardware: Hardware,
    model: ModelEntry | GgufFacts,
    wish: Wish,
    *,
    threads: int,
    gpu: bool = False,
    others: Sequence[ModelEntry] = (),
) -> LlamaPlan | Refusal:
    """Decide how to load `model`, or why it cannot be.

    Args:
        hardware: facts of the machine.
        model: a catalog entry, or the facts of a file given by path.
        wish: what the user asked for.
        threads: decode threads, carried into the plan.
        gpu: whether the installed llama.cpp can use a GPU.
        others: models to propose when this one does not fit.

    Returns:
        A plan that fits, or a refusal that names the nearest thing that does.
    """
    subject, devices = subject_of(model), devices_of(hardware, gpu=gpu)
    problems = _impossible(subject, devices, wish)
    if not problems:
        choice = _search(subject, devices, wish)
        if choice is not None:
            return _finish(subject, devices, wish, choice, threads)
        problems = shortage(devices, _cheapest(subject, wish))
    return _refuse(subject, devices, wish, problems, others, threads)


def _impossible(subject: Subject, devices: Devices, wish: Wish) -> tuple[str, ...]:
    """What is wrong with the wish whatever the memory."""
    shape = subject.shape
    slots = (wish.max_num_seqs or 0) + cache_slots_to_try(shape, wish.cache_slots)[-1]
    checks = (
        (not subject.weights, "it has no GGUF weights"),
        (
            wish.quant is not None and not _candidates(subject, wish),
            f"there is no {wish.quant}, only {', '.join(w.quant for w in subject.weights)}",
        ),
        (
            wish.context is not None and not 0 < wish.context <= shape.context,
            f"a context of {wish.context:,} is not between 1 and the model's {shape.context:,}"
            if wish.context is not None
            else "",
        ),
        (
            wish.max_num_seqs is not None and wish.max_num_seqs < 1,
            "at least one sequence is needed",
        ),
        (
            wish.cache_slots is not None and wish.cache_slots < 0,
            "the number of kept prefixes cannot be negative",
        ),
        (
            slots > MAX_SLOTS,
            f"llama.cpp has {MAX_SLOTS} slots for sequences and kept prefixes, not {slots}",
        ),
        (
            wish.kv_type is not None and wish.kv_type not in KV_TYPES,
            f"keys and values can be {' or '.join(KV_TYPES)}, not {wish.kv_type}",
        ),
        (
            wish.load_mode is not None and wish.load_mode not in LOAD_MODES,
            f"weights can be loaded by {' or '.join(LOAD_MODES)}, not {wish.load_mode}",
        ),
        (
            wish.gpu_layers is not None and wish.gpu_layers < 0,
            "the number of GPU layers cannot be negative",
        ),
        (
            bool(wish.gpu_layers) and not devices.gpu,
            "there is no GPU memory that this llama.cpp could use",
        ),
    )
    return tuple(problem for wrong, problem in checks if wrong)


def _candidates(subject: Subject, wish: Wish) -> tuple[Weights, ...]:
    """The wished weights, or the recommended ones and then what is smaller."""
    if wish.quant is not None:
        return tuple(w for w in subject.weights if w.quant.lower() == wish.quant.lower())
    first = subject.weights[0]
    smaller = (w for w in subject.weights[1:] if w.total < first.total)
    return (first, *sorted(smaller, key=lambda weights: -weights.total))


def _cheapest(subject: Subject, wish: Wish) -> Choice:
    """What grants the wish with the least memory, whether it fits or not."""
    length = lengths_to_try(wish.context, subject.shape, _MIN_MODEL_LEN)[-1]
    kv_type: KvType = "f16" if wish.kv_type == "f16" else "q8_0"
    seqs = wish.max_num_seqs or 1
    kept = cache_slots_to_try(subject.shape, wish.cache_slots)[-1]
    sizes = sizes_of(subject.shape, kv_type, length, seqs, kept)
    weights = min(_candidates(subject, wish), key=lambda candidate: candidate.total)
    layers = wish.gpu_layers
    if layers is None:
        placement = on_host(weights, subject.shape, sizes)
    else:
        placement = on_both(weights, subject.shape, sizes, layers)
    return Choice(weights, kv_type, length, length, seqs, sizes, placement, "memory")


def lengths_to_try(asked: int | None, shape: Shape, least: int) -> tuple[int, ...]:
    """Lengths for one request to try, the longest first, down to about the least."""
    if asked is not None:
        return (asked,)
    lengths = [min(DEFAULT_MAX_MODEL_LEN, shape.context)]
    while lengths[-1] // 2 >= least:
        lengths.append(lengths[-1] // 2)
    return tuple(lengths)


def _search(subject: Subject, devices: Devices, wish: Wish) -> Choice | None:
    """The first choice that fits, in order of preference."""
    modes: tuple[LoadMode, ...] = tuple(
        mode for mode in LOAD_MODES if wish.load_mode in (None, mode)
    )
    for mode, weights in product(modes, _candidates(subject, wish)):
        if wish.load_mode != "mmap" and weights.total > devices.usable + devices.gpu:
            continue  # hopeless, and a search of all sizes would only find that out slowly
        for placing, sized in _settings(subject, wish):
            for placement in _placements(placing, subject, devices, wish, (weights, sized[-1])):
                if _fits(devices, placement, mode, wished=wish.load_mode is not None):
                    kv_type, length, cells, seqs, sizes = sized
                    return Choice(weights, kv_type, length, cells, seqs, sizes, placement, mode)
    return None


def _settings(
    subject: Subject, wish: Wish
) -> Iterator[tuple[str, tuple[KvType, int, int, int, Sizes]]]:
    """Kinds of placement with the sizes to try, the fastest kind first."""
    for placing in ("gpu", "experts", "both", "host"):
        # Where a model is split, every cell of context pushes weights off the GPU.
        roomy = (
            _FULL_LENGTH_SEQS if placing in ("gpu", "host") or wish.gpu_layers is not None else 1
        )
        for sized in _sizings(subject, wish, roomy):
            yield placing, sized


def _sizings(
    subject: Subject, wish: Wish, roomy: int
) -> Iterator[tuple[KvType, int, int, int, Sizes]]:
    """KV type, length of one request, cells, sequences and their bytes, best first."""
    kv_types = tuple(kv for kv in KV_TYPES if wish.kv_type in (None, kv))
    seqs = (
        (wish.max_num_seqs,) if wish.max_num_seqs is not None else (DEFAULT_MAX_NUM_SEQS, 4, 2, 1)
    )
    slots = cache_slots_to_try(subject.shape, wish.cache_slots)
    lengths = lengths_to_try(wish.context, subject.shape, _MIN_MODEL_LEN)
    for length, kv_type, count in product(lengths, kv_types, seqs):
        shared = dict.fromkeys(min(count, full) for full in (roomy, 2, 1) if full <= roomy)
        for full, kept in product(shared, slots):
            cells = length * full
            sizes = sizes_of(subject.shape, kv_type, cells, count, kept)
            yield kv_type, length, cells, count, sizes


def _placements(
    placing: str, subject: Subject, devices: Devices, wish: Wish, what: tuple[Weights, Sizes]
) -> Iterator[Placement]:
    """Placements of one kind; at most the best one of those that fit the GPU."""
    shape, (weights, sizes) = subject.shape, what
    if wish.gpu_layers is not None:
        if placing == "both":
            yield on_both(weights, shape, sizes, wish.gpu_layers)
    elif placing == "host":
        yield on_host(weights, shape, sizes)
    elif devices.gpu and placing == "gpu":
        yield on_gpu(weights, shape, sizes)
    elif devices.gpu and not devices.unified:
        yield from _split(placing, subject, devices, weights, sizes)


def _split(
    placing: str, subject: Subject, devices: Devices, weights: Weights, sizes: Sizes
) -> Iterator[Placement]:
    """The split with the most on the GPU: experts of some layers out, or some layers in."""
    shape = subject.shape
    if placing == "experts" and shape.moe is not None:
        counts = range(1, shape.moe.layers + 1)
        out = bisect_left(
            counts, -devices.gpu, key=lambda count: -on_gpu(weights, shape, sizes, count).gpu
        )
        if out < len(counts):
            yield on_gpu(weights, shape, sizes, counts[out])
    elif placing == "both" and shape.moe is None:
        counts = range(1, shape.layers + 1)
        into = bisect_right(
            counts, devices.gpu, key=lambda count: on_both(weights, shape, sizes, count).gpu
        )
        if into:
            yield on_both(weights, shape, sizes, into)


def _fits(devices: Devices, placement: Placement, mode: LoadMode, *, wished: bool) -> bool:
    """Whether a placement fits, for a way to load the weights."""
    if placement.gpu > devices.gpu:
        return False
    host = placement.host + (placement.gpu if devices.unified else 0)
    if mode == "memory":
        return host <= devices.host
    if wished:
        return host - placement.host_weights <= devices.host
    # Unasked, weights are mapped only where the page cache can hold all of them undisturbed.
    return not devices.reclaims and host <= devices.usable


def _finish(
    subject: Subject, devices: Devices, wish: Wish, choice: Choice, threads: int
) -> LlamaPlan:
    placement, sizes = choice.placement, choice.sizes
    from_disk = choice.load_mode == "mmap" and placement.host > devices.usable
    speed = None if from_disk else tokens_per_second(devices, placement)
    return LlamaPlan(
        model=subject.name,
        artifact=choice.weights.artifact,
        quant=choice.weights.quant,
        context=choice.cells,
        max_model_len=choice.max_model_len,
        kv_type=choice.kv_type,
        max_num_seqs=choice.max_num_seqs,
        cache_slots=sizes.cache_slots,
        cheap_cells=cheap_cells_of(choice.weights, subject.shape, choice.kv_type),
        n_gpu_layers=placement.n_gpu_layers,
        n_cpu_moe=placement.n_cpu_moe,
        load_mode=choice.load_mode,
        threads=threads,
        memory=MemoryNeed(
            weights=choice.weights.total,
            kv=sizes.kv,
            recurrent=sizes.recurrent,
            compute=sizes.compute,
            host=placement.host,
            host_available=devices.host,
            gpu=placement.gpu,
            gpu_available=devices.gpu,
        ),
        predicted_tokens_per_s=speed,
        reasons=tuple(explain(subject, devices, wish, choice, speed)),
    )


def _refuse(
    subject: Subject,
    devices: Devices,
    wish: Wish,
    reasons: tuple[str, ...],
    others: Sequence[ModelEntry],
    threads: int,
) -> Refusal:
    for near, relaxed in _near(subject, wish, others):
        if _impossible(near, devices, relaxed):
            continue
        choice = _search(near, devices, relaxed)
        if choice is not None:
            found = _finish(near, devices, relaxed, choice, threads)
            return Refusal(subject.name, reasons, describe(found), found)
    return Refusal(subject.name, reasons)


def _near(
    subject: Subject, wish: Wish, others: Sequence[ModelEntry]
) -> Iterator[tuple[Subject, Wish]]:
    """What to try instead: the same model with less of the wish, then other models."""
    for relaxed in dict.fromkeys(_relaxed(subject, wish)):
        yield subject, relaxed
    for entry in sorted(others, key=lambda entry: -entry.params.total):
        # The packaged model is a toy: no answer to somebody who asked for a real one.
        if entry.id != subject.name and not entry.artifacts[0].packaged:
            yield subject_of(entry), Wish()


def _relaxed(subject: Subject, wish: Wish) -> Iterator[Wish]:
    """The wish with less and less of it, in the order in which a user would give it up."""
    if wish.kv_type == "f16":
        yield replace(wish, kv_type=None)
    free = replace(wish, kv_type=None)
    length = wish.context or 0
    while length // 2 >= _MIN_MODEL_LEN:
        length //= 2
        yield replace(free, context=min(length, subject.shape.context))
    free = replace(free, context=None)
    yield free
    for field in ("max_num_seqs", "gpu_layers", "quant", "load_mode"):
        free = replace(free, **{field: None})
        yield free
