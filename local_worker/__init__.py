"""local-worker: a local inference server for open-weight worker models."""

__version__ = "0.1.0"
