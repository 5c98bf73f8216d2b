"""Attention on x86 processors, in the place of llama.cpp's own.

llama.cpp b11434 goes through a sequence's cells one by one for each query head, and adds values up
in FP16. Here, cells are read once for all heads and rows that see them, and all sums are in FP32:
1.5 to 4 times as fast and, in steps of fewer than 64 rows, a thousand times as close to the exact
result (benchmarks/results/kernels.md).

vectors.hpp  sixteen or eight floats at a time
kernel.hpp   attention of a few rows, over plain memory
hook.cpp     where ggml calls it
build        compiles that for this processor, and has it checked, once
check        compares its results with the exact ones and with ggml's
hook         loads it, before llama.cpp is loaded

`python -m local_worker.engines.llama_cpp.kernels` builds it; `scripts/install` does that.
"""
