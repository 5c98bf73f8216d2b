from __future__ import annotations

import pytest

from local_worker.catalog.memory import MIB, sizes_of
from local_worker.catalog.schema import KvLayers, Recurrent, Shape

DEMO = Shape(layers=4, hidden=128, vocab=960, context=4096, kv=(KvLayers(4, 2, 32),))


@pytest.mark.parametrize(
    ("cells", "kv", "compute"), [(4_096, 4, 7.26), (16_384, 16, 19.26), (65_536, 64, 67.26)]
)
def test_the_buffers_that_llama_cpp_reports(cells, kv, compute):
    """Megabytes from the library's log for the demo model, with flash attention."""
    sizes = sizes_of(DEMO, "f16", cells, 1)
    assert sizes.kv == kv * MIB
    assert sizes.compute / MIB == pytest.approx(compute, rel=0.1)
    assert sizes.compute / MIB >= compute


def test_q8_0_takes_a_little_more_than_half():
    sizes = sizes_of(DEMO, "q8_0", 16_384, 1)
    assert sizes.kv == 16 * MIB * 34 // 64


def test_a_window_is_kept_for_every_sequence_but_never_more_than_there_is():
    shape = Shape(
        layers=2,
        hidden=64,
        vocab=100,
        context=9_999,
        kv=(KvLayers(1, 1, 32),),
        swa=(KvLayers(1, 1, 32),),
        swa_window=128,
    )
    per_cell = 2 * 32 * 2
    # 3 windows and a micro-batch are 896 tokens, padded to a multiple of 256.
    assert sizes_of(shape, "f16", 8_192, 3).kv == per_cell * (8_192 + 1_024)
    assert sizes_of(shape, "f16", 512, 3).kv == per_cell * (512 + 512)


def test_recurrent_state_does_not_depend_on_the_length():
    state = Recurrent(layers=18, qk_heads=16, v_heads=16, head_dim=128, conv_kernel=4)
    shape = DEMO.model_copy(update={"recurrent": state})
    for cells in (1_024, 65_536):
        assert sizes_of(shape, "f16", cells, 5).recurrent == 5 * 20_201_472
