"""The rows of one native batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from local_worker.engines.llama_cpp.native import lib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Logits: TypeAlias = "NDArray[np.float32]"
"""Of one row, shape (vocab_size,)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One token to compute: its id, its position in its sequence, and whether logits are wanted."""

    token_id: int
    position: int
    slot: int
    logits: bool


class Batch:
    """Arrays that a `llama_batch` points into, filled anew for every step."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._seq = np.zeros(capacity, np.int32)
        self._count = np.ones(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        # seq_id is an array of pointers, one per row: each points at its row's single id.
        base, size = self._seq.ctypes.data, self._seq.itemsize
        self._seq_pointers = np.array([base + i * size for i in range(capacity)], np.uint64)
        self.native = lib.llama_batch()
        self.native.embd = None
        for name, array in (
            ("token", self._token), ("pos", self._pos), ("n_seq_id", self._count),
            ("seq_id", self._seq_pointers), ("logits", self._logits),
        ):  # fmt: skip
            kind = dict(lib.llama_batch._fields_)[name]
            setattr(self.native, name, array.ctypes.data_as(kind))

    def fill(self, rows: Sequence[Row]) -> None:
        """Makes these the rows."""
        count = len(rows)
        self._token[:count] = [row.token_id for row in rows]
        self._pos[:count] = [row.position for row in rows]
        self._seq[:count] = [row.slot for row in rows]
        self._logits[:count] = [row.logits for row in rows]
        self.native.n_tokens = count
