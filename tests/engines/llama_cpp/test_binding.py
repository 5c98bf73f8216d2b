"""Batches on the native library, on tiny random models."""

from __future__ import annotations

import gguf_shapes
import make_random_gguf
import numpy as np
import pytest

from local_worker.engines.llama_cpp.config import LlamaConfig

pytestmark = pytest.mark.llama

SHAPES = sorted(name for name in gguf_shapes.SHAPES if name.startswith("tiny-"))


@pytest.fixture(scope="module", params=SHAPES)
def llama(request, tmp_path_factory):
    pytest.importorskip("gguf", reason="writes a model file")
    binding = pytest.importorskip("local_worker.engines.llama_cpp.binding")
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    make_random_gguf.make(request.param, path, vocab=None)
    config = LlamaConfig(str(path), 512, 256, max_num_seqs=4, cache_slots=4, threads=2)
    llama = binding.Llama(config)
    yield llama
    llama.close()


def decoded(llama, **how):
    """Logits of two slots over six steps, from empty slots."""
    from local_worker.engines.llama_cpp.batch import Row
    from local_worker.engines.llama_cpp.prefix_cache import Cut

    llama.arrange([Cut(0), Cut(1)])
    steps = []
    for position in range(6):
        rows = [Row(10 + 7 * slot + position, position, slot, True) for slot in (0, 1)]
        steps.append([logits.copy() for logits in llama.decode(rows, **how)])
    return np.array(steps)


def test_rows_thrown_away_and_fewer_threads_change_no_result(llama):
    plain = decoded(llama)
    assert plain.shape == (6, 2, llama.vocab_size)
    ways = [{"threads": 1}, {"padding": 2, "threads": 2}] if llama.pads else [{"threads": 1}]
    for how in ways:
        assert np.allclose(decoded(llama, **how), plain, atol=0.15 * plain.std())


def test_nothing_is_left_of_rows_thrown_away(llama):
    if not llama.pads:
        pytest.skip("recurrent layers compute slots of equal lengths")
    for _ in range(60):  # far more rows in all than there are cells
        decoded(llama, padding=8, threads=1)  # two spin where a neighbour is busy


def test_what_runs_is_moved_to_another_layout_and_back(llama):
    """Only models that keep every token change their layout."""
    from local_worker.engines.llama_cpp.batch import Row
    from local_worker.engines.llama_cpp.layout import Layout
    from local_worker.engines.llama_cpp.prefix_cache import Cut
    from local_worker.engines.llama_cpp.states import recast

    if llama.window is not None:
        pytest.skip("keeps to the unified layout")
    for slot in (1, 3):
        llama.arrange([Cut(slot)])
        llama.decode([Row(20 + slot + i, i, slot, i == 9) for i in range(10)])

    def next_logits(slot):
        (logits,) = llama.decode([Row(7, 10, slot, True)])
        llama.arrange([Cut(slot, 10)])
        return logits.copy()

    plain = [next_logits(slot) for slot in (1, 3)]
    changes = ((Layout.SEPARATE, (1, 3), (2, 0)), (Layout.UNIFIED, (2, 0), (5, 1)))
    for layout, slots, places in changes:
        before = llama.streams
        held = [llama.save(slot) for slot in slots]
        llama.lay_out(layout)
        for data, slot, place in zip(held, slots, places, strict=True):
            stream = slot if before > 1 else 0
            llama.load(place, recast(data, stream, before, llama.streams), 10)
        for place, expected in zip(places, plain, strict=True):
            assert np.allclose(next_logits(place), expected, atol=0.02 * expected.std())
