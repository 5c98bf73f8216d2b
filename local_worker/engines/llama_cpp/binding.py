"""The native library behind a small face: a model, its context, and batches of rows.

llama.cpp's spellings (n_ctx, n_batch, seq_id, pos) end here. Everything raises
`NativeError` when the library reports a failure; nothing here knows requests or processes.
"""

from __future__ import annotations

import ctypes
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from local_worker.engines.llama_cpp.batch import Batch, Row
from local_worker.engines.llama_cpp.layout import Layout, slot_cells
from local_worker.engines.llama_cpp.lookup import MOST_GUESSES
from local_worker.engines.llama_cpp.native import computed, lib, own_kernels
from local_worker.engines.llama_cpp.native_log import NativeLog
from local_worker.engines.llama_cpp.placement import expert_overrides
from local_worker.engines.llama_cpp.prefix_cache import Cut, Share
from local_worker.engines.llama_cpp.radix import RECURRENT
from local_worker.engines.llama_cpp.shapes import MOST_PADDING
from local_worker.engines.llama_cpp.states import fresh_memory
from local_worker.engines.process.vocabulary import structures_a_prompt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from local_worker.engines.llama_cpp.batch import Logits
    from local_worker.engines.llama_cpp.config import LlamaConfig

_KV_TYPES = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0}
_LOAD_MODES = {"memory": lib.LLAMA_LOAD_MODE_NONE, "mmap": lib.LLAMA_LOAD_MODE_MMAP}


Handle: TypeAlias = Any
"""A pointer that the library gave: ctypes has no type for it."""


LONG_TEXT = 4096
CONTROL_TOKENS_A_CALL = 64


class NativeError(Exception):
    """The library refused or failed; the message carries its own last words."""


class NoKvRoomError(NativeError):
    """The KV buffer could not take the batch; its state is what it was before."""


class Llama:
    """A loaded model with one context.

    Args:
        config: what to load and how.

    Attributes:
        passes_over_cells: whether a row takes next to no time over cells that it does not see:
            where attention is this project's (benchmarks/results/kernels.md).
        own_products: whether products are this project's.

    Raises:
        NativeError: the file cannot be loaded or the context not made.
    """

    def __init__(self, config: LlamaConfig) -> None:
        self._log = NativeLog()
        lib.llama_backend_init()
        self._model = self._load(config)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.vocab_size: int = lib.llama_vocab_n_tokens(self._vocab)
        self.window = self._find_window()
        self._config = config
        self._unified_cells = 0
        self._context = self._make_context(separate=False)
        self._memory = lib.llama_get_memory(self._context)
        self._batch = Batch(self._max_rows)
        self._threads = config.threads
        self._pieces: dict[int, bytes] = {}
        self.control_ids, self.control_tokens = self._find_control_tokens()
        spellings = sorted(self.control_tokens, key=len, reverse=True)
        # `(?!)` matches nothing: a vocabulary without control tokens has none to find.
        self._control_pattern = re.compile("|".join(map(re.escape, spellings)) or "(?!)")
        self.end_ids = frozenset(
            i for i in range(self.vocab_size) if lib.llama_vocab_is_eog(self._vocab, i)
        )
        self.end_id_array = np.fromiter(self.end_ids, np.int64)
        self.passes_over_cells, self.own_products = self._try_kernels()

    def _try_kernels(self) -> tuple[bool, bool]:
        """Whether attention and products are ours depends on the model, too: one token shows it."""
        if not own_kernels:
            return False, False
        before = computed()
        self.decode([Row(0, 0, 0, logits=True)])
        self.arrange([Cut(0)])
        attentions, products = computed()
        return attentions > before[0], products > before[1]

    def _load(self, config: LlamaConfig) -> Handle:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = config.gpu_layers
        params.load_mode = _LOAD_MODES[config.load_mode]
        overrides = expert_overrides(config.cpu_moe_layers)
        if overrides is not None:
            params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        path = str(Path(config.model_path)).encode()
        model = lib.llama_model_load_from_file(path, params)
        if not model:
            raise NativeError(self._log.last_words())
        return model

    @property
    def _max_rows(self) -> int:
        """Of a batch, with those that are thrown away."""
        return self._config.max_tokens_per_step + max(MOST_PADDING, self._config.max_num_seqs)

    def _make_context(self, *, separate: bool) -> Handle:
        config = self._config
        params = lib.llama_context_default_params()
        # Rows that are thrown away lie in cells and a slot, too, while their step is computed.
        params.n_ctx = config.kv_capacity + MOST_PADDING
        self._padding_slot = config.max_num_seqs + config.cache_slots
        self._separate = separate
        self._threads_now = config.threads
        params.n_ubatch = config.max_tokens_per_step
        params.n_batch = self._max_rows
        # The library wants room for a row of logits of every slot, cached ones too. Windowed layers
        # get a window more for each cached one: see `PrefixCache.longest_share`.
        slots = config.max_num_seqs + config.cache_slots * (2 if self.window else 1)
        self._has_padding_slot = slots < lib.llama_max_parallel_sequences()
        params.n_seq_max = slots = slots + self._has_padding_slot
        params.n_outputs_max = slots + MOST_PADDING + MOST_GUESSES
        params.n_threads = params.n_threads_batch = config.threads
        params.type_k = params.type_v = _KV_TYPES[config.kv_type]
        params.kv_unified = not separate
        if separate:
            params.n_seq_max = config.max_num_seqs
            params.n_ctx = config.max_num_seqs * slot_cells(
                config.max_num_seqs, self._unified_cells
            )
        # Sliding-window layers need only their window: the full-size cache is for rewinding.
        params.swa_full = False
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise NativeError(self._log.last_words())
        if not separate:
            self._unified_cells = int(lib.llama_n_ctx(context)) - MOST_PADDING
        return context

    @property
    def kv_capacity(self) -> int:
        """KV cells there are for sequences in a unified layout."""
        return self._unified_cells

    @property
    def streams(self) -> int:
        """Buffers that the KV cells are divided into."""
        return self._config.max_num_seqs if self._separate else 1

    def lay_out(self, layout: Layout) -> None:
        """Makes the context anew; whatever it held is gone.

        Raises:
            NativeError: it cannot be made.
        """
        lib.llama_free(self._context)
        self._context = self._make_context(separate=layout is Layout.SEPARATE)
        self._memory = lib.llama_get_memory(self._context)

    def metadata(self, key: str) -> str | None:
        """A value of the model file's metadata as text, or None."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = lib.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
            if written < 0:
                return None
            if written < size:
                return buffer.value.decode(errors="replace")
            size = written + 1

    def chat_template(self) -> str | None:
        """The jinja2 source that the model file carries, or None."""
        template = lib.llama_model_chat_template(self._model, None)
        return template.decode(errors="replace") if template else None

    def bos_id(self) -> int | None:
        """Id of the beginning-of-sequence token, or None."""
        token = lib.llama_vocab_bos(self._vocab)
        return token if token >= 0 else None

    def eos_id(self) -> int | None:
        """Id of the end-of-sequence token, or None."""
        token = lib.llama_vocab_eos(self._vocab)
        return token if token >= 0 else None

    def longest_token(self) -> int:
        """Bytes of the longest token's text. An upper bound: as the vocabulary spells it."""
        texts = (lib.llama_vocab_get_text(self._vocab, i) for i in range(self.vocab_size))
        return max(len(text) for text in texts)

    def _find_window(self) -> int | None:
        """How far back this model's memory reaches; see `radix.PrefixTree`."""
        if lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model):
            return RECURRENT
        return int(lib.llama_model_n_swa(self._model)) or None

    def _find_control_tokens(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """Ids and spellings of the tokens that structure a prompt: people's text must have none.

        The tokenizer reads user-defined tokens even in plain text: of those, the ones that look
        like structure.
        """
        user_defined = lib.LLAMA_TOKEN_ATTR_USER_DEFINED
        ids, found = [], []
        for token_id in range(self.vocab_size):
            attributes = lib.llama_vocab_get_attr(self._vocab, token_id)
            if attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | user_defined):
                text = lib.llama_vocab_get_text(self._vocab, token_id).decode(errors="replace")
                if structures_a_prompt(text, declared=not attributes & user_defined):
                    ids.append(token_id)
                    found.append(text)
        return frozenset(ids), tuple(found)

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        """Token ids of a text. Safe to call while another thread decodes.

        A long text is cut before control tokens: the library's search for them takes time in the
        square of their number.
        """
        if not parse_special or len(text) < LONG_TEXT:
            return self._tokenize(text, parse_special=parse_special, add_special=add_special)
        token_ids: list[int] = []
        starts = [match.start() for match in self._control_pattern.finditer(text)]
        borders = [0, *starts[CONTROL_TOKENS_A_CALL::CONTROL_TOKENS_A_CALL], len(text)]
        for index, (start, end) in enumerate(itertools.pairwise(borders)):
            token_ids += self._tokenize(
                text[start:end], parse_special=True, add_special=add_special and index == 0
            )
        return token_ids

    def _tokenize(self, text: str, *, parse_special: bool, add_special: bool) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        buffer = (lib.llama_token * room)()
        count = lib.llama_tokenize(
            self._vocab, data, len(data), buffer, room, add_special, parse_special
        )
        if count < 0:
            raise NativeError(f"tokenizing {len(data)} bytes gave more than {room} tokens")
        return list(buffer[:count])

    def piece(self, token_id: int, *, special: bool = False) -> bytes:
        """The bytes of one token; control tokens are empty unless `special` is set."""
        if special:
            return self._piece(token_id, special=True)
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._piece(token_id, special=False)
        return piece

    def _piece(self, token_id: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = lib.llama_token_to_piece(self._vocab, token_id, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    @property
    def control(self) -> dict[int, str]:
        """Spellings of the control tokens and those that end a text, by their ids."""
        ids = self.control_ids | self.end_ids
        return {i: self.piece(i, special=True).decode(errors="replace") for i in ids}

    @property
    def guesses(self) -> bool:
        """Whether tokens are guessed: a recurrent state cannot go back to before a wrong guess."""
        return self._config.prompt_lookup and self.window != RECURRENT

    @property
    def pads(self) -> bool:
        """Whether rows can be added to a batch: recurrent layers compute slots of equal lengths."""
        return self.window != RECURRENT and self._has_padding_slot

    def decode(
        self, rows: Sequence[Row], threads: int | None = None, padding: int = 0
    ) -> list[Logits]:
        """Computes one batch.

        Args:
            rows: in order of slot and position.
            threads: fewer than configured.
            padding: rows to add, whose results are thrown away.

        Returns:
            Logits, of shape (vocab_size,), of the rows that asked for them, in their order. Views
            of the library's own buffer: valid, and free to be written to, until the next call.

        Raises:
            NoKvRoomError: the KV buffer has no room for the batch.
            NativeError: the computation failed; the context can no longer be trusted.
        """
        if (threads := threads or self._threads) != self._threads_now:
            lib.llama_set_n_threads(self._context, threads, threads)
            self._threads_now = threads
        scrap = self._scrap({row.slot for row in rows}, padding)
        if self._separate and scrap:
            everything = sorted((*rows, *scrap), key=lambda row: (row.slot, row.position))
        else:
            everything = [*rows, *scrap]
        self._batch.fill(everything)
        status = lib.llama_decode(self._context, self._batch.native)
        for row in scrap:
            lib.llama_memory_seq_rm(self._memory, row.slot, row.position, -1)
        if status == 1:
            raise NoKvRoomError(f"no KV room for a batch of {len(rows)} tokens")
        if status != 0:
            raise NativeError(f"llama_decode returned {status}: {self._log.last_words()}")
        return self._outputs(everything, {row.slot for row in scrap})

    def _scrap(self, slots: AbstractSet[int], padding: int) -> list[Row]:
        """Rows to be thrown away: to fill up the kernels' multiples, and between slots.

        Where each slot has a buffer of its own, only slots that are neighbours are computed
        together.
        """
        if not self._separate:
            return [Row(0, position, self._padding_slot, True) for position in range(padding)]
        top = max(slots)
        free = [slot for slot in range(min(slots), top) if slot not in slots]
        if len(free) > len(slots):
            free = []  # better two batches than one that is mostly thrown away
        free += range(top + 1, min(top + 1 + padding, self._config.max_num_seqs))
        # A slot may be taken, and have nothing to compute in this step.
        last = (lib.llama_memory_seq_pos_max(self._memory, slot) for slot in free)
        return [Row(0, end + 1, slot, True) for slot, end in zip(free, last, strict=True)]

    def _outputs(self, rows: Sequence[Row], scrap: AbstractSet[int]) -> list[Logits]:
        wanted = [row for row in rows if row.logits]
        if not wanted:
            return []
        pointer = lib.llama_get_logits(self._context)
        logits = np.ctypeslib.as_array(pointer, shape=(len(wanted), self.vocab_size))
        return [logits[number] for number, row in enumerate(wanted) if row.slot not in scrap]

    def save(self, slot: int) -> memoryview:
        """What a slot holds, for `load` in a context of the same model and cells.

        Raises:
            NativeError: the library cannot copy this model's memory.
        """
        size = lib.llama_state_seq_get_size(self._context, slot)
        data = fresh_memory(size)
        buffer = (ctypes.c_uint8 * size).from_buffer(data)
        written = lib.llama_state_seq_get_data(self._context, buffer, size, slot)
        if written != size:
            raise NativeError(f"slot {slot} cannot be copied: {self._log.last_words()}")
        return data

    def load(self, slot: int, data: memoryview, length: int) -> None:
        """Puts the first `length` tokens of what was saved into an empty slot.

        Raises:
            NativeError: there is no room, or it is not what `save` has given.
        """
        buffer = (ctypes.c_uint8 * len(data)).from_buffer(data)
        if not lib.llama_state_seq_set_data(self._context, buffer, len(data), slot):
            raise NativeError(f"slot {slot} cannot be filled: {self._log.last_words()}")
        self.arrange((Cut(slot, length),))

    def arrange(self, operations: Iterable[Share | Cut]) -> None:
        """Moves what slots hold, without computing anything.

        Raises:
            NativeError: the library cannot do that to this model's memory.
        """
        for operation in operations:
            if isinstance(operation, Share):
                source, slot, length = operation.source, operation.slot, operation.length
                lib.llama_memory_seq_cp(self._memory, source, slot, 0, length)
            elif operation.length == 0:
                lib.llama_memory_seq_rm(self._memory, operation.slot, -1, -1)
            elif not lib.llama_memory_seq_rm(self._memory, operation.slot, operation.length, -1):
                raise NativeError(f"slot {operation.slot} cannot be cut to {operation.length}")

    def close(self) -> None:
        """Frees the context and the model."""
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)
