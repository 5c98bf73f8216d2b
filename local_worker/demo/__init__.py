"""The embedded demo model: its files, and the tasks that it was trained to do.

Everything here is plain standard library. The model is trained by `scripts/train_demo.py`;
nothing in this package needs the training code.
"""

from pathlib import Path


def model_dir() -> Path:
    """The folder with the weights, the tokenizer and the configuration (for vLLM)."""
    return Path(__file__).parent / "model"


def gguf_path() -> Path:
    """The one-file form of the same model (for llama.cpp)."""
    return model_dir() / "demo.gguf"
