"""Attention and matrix products on x86 processors, in the place of llama.cpp's own.

llama.cpp b11434 goes through a sequence's cells one by one for each query head, and adds values up
in FP16. Here, cells are read once for all heads and rows that see them, and all sums are in FP32:
1.5 to 4 times as fast and, in steps of fewer than 64 rows, a thousand times as close to the exact
result. It multiplies rows left over from a multiple of four one by one, each time through all
weights; here, up to twelve rows cost hardly more than one does. Products need AVX-512 with VNNI
(benchmarks/results/kernels.md).

vectors.hpp      sixteen or eight floats at a time
attention.hpp    attention of a few rows, over plain memory
formats.hpp      quantised weights and activations
products.hpp     weights with some rows of activations, over plain memory
ggml.hpp         what is known of ggml
*_op.hpp         which of its operations are computed here, and in which pieces
hook.cpp         where ggml calls it
build            compiles that for this processor, and has it checked, once
check, check_*   compare its results with the exact ones and with ggml's
ggml             as much of that as it takes to compute one operation
hook             loads it, before llama.cpp is loaded

`python -m local_worker.engines.llama_cpp.kernels` builds it; `scripts/install` does that.
"""
