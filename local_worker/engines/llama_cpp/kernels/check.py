"""Compares the kernels' results with the exact ones, and with what ggml computes without them.

It goes through ggml itself, a graph of one operation: so what is checked is also that tensors lie
in memory as ggml.hpp believes, and that ggml calls them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from local_worker.engines.llama_cpp.kernels import check_attention, check_products
from local_worker.engines.llama_cpp.kernels.ggml import Ggml
from local_worker.engines.llama_cpp.kernels.hook import Hook

if TYPE_CHECKING:
    from collections.abc import Iterator


def failures(hook: Hook, ggml: Ggml) -> Iterator[str | None]:
    """What is wrong with each shape of operation, in words; None when nothing is."""
    for shape in check_attention.SHAPES:
        yield check_attention.failure(hook, ggml, shape)
    for product in check_products.PRODUCTS if hook.multiplies else ():
        yield check_products.failure(hook, ggml, product)


def main() -> None:
    """Entry point: `python -m local_worker.engines.llama_cpp.kernels.check FILE`."""
    hook = Hook(Path(sys.argv[1]))
    ggml = Ggml()
    if (why := hook.begin()) is not None:
        sys.exit(why)
    for failure in failures(hook, ggml):
        if failure is not None:
            sys.exit(failure)


if __name__ == "__main__":
    main()
