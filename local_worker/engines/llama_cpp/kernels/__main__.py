"""Builds the kernel for this machine, or says why there is none."""

from __future__ import annotations

import sys

from local_worker.engines.llama_cpp.kernels.build import UnavailableError, build


def main() -> None:
    """Entry point of `python -m local_worker.engines.llama_cpp.kernels`."""
    try:
        line = f"attention and products are computed by {build()}"
    except UnavailableError as error:
        line = f"kernels stay llama.cpp's own: {error}"
    sys.stderr.write(f"local-worker: {line}\n")


if __name__ == "__main__":
    main()
