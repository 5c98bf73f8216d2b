"""Text to token ids and back, from a model folder's tokenizer.json, without vLLM.

The tokenizers library does the encoding. People's text goes through a second encoder that does not
know the control tokens, so that writing one does not make one.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from llguidance import LLTokenizer
from tokenizers import Tokenizer

from local_worker.catalog.hf_folder import chat_template_of
from local_worker.engines.process.grammar import Known, compiled
from local_worker.engines.process.vocabulary import structures_a_prompt

if TYPE_CHECKING:
    from pathlib import Path

    from local_worker.types import Grammar


class Vocabulary:
    """The tokens of a model.

    Args:
        folder: holds tokenizer.json and, usually, the configs beside it.
        size: token ids of the model, which may have more than the tokenizer knows.

    Raises:
        OSError, ValueError: a file is missing or broken.
    """

    def __init__(self, folder: Path, size: int) -> None:
        text = (folder / "tokenizer.json").read_text()
        source = json.loads(text)
        settings = _read(folder / "tokenizer_config.json")
        self.vocab_size = size
        self.chat_template = chat_template_of(folder)
        self.bos_token = _spelling(settings.get("bos_token"))
        self.eos_token = _spelling(settings.get("eos_token"))
        added = source.get("added_tokens") or []
        self.control = {t["id"]: t["content"] for t in added}
        control = [t for t in added if _is_control(t)]
        self.control_tokens = tuple(t["content"] for t in control)
        self._silent = frozenset(t["id"] for t in control if t["special"])
        self._encoder = Tokenizer.from_str(text)
        self._plain = _without(source, control)
        self.end_ids = _end_ids(folder, self._encoder.token_to_id(self.eos_token))
        # A vocabulary needs some end token to be read; which one makes no difference to pieces.
        self._bytes = LLTokenizer(text, eos_token=self.end_ids[0])
        self._good: Known[bool] = Known()
        self._known = max(self._encoder.get_vocab(with_added_tokens=True).values()) + 1

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        """Token ids of a text. Control tokens are recognised only where `parse_special` is set."""
        encoder = self._encoder if parse_special else self._plain
        ids: list[int] = encoder.encode(text, add_special_tokens=add_special).ids
        return ids

    def piece(self, token_id: int, *, special: bool = False) -> bytes:
        """The bytes of one token; control tokens are empty unless `special` is set."""
        if token_id >= self._known or (token_id in self._silent and not special):
            return b""
        piece: bytes = self._bytes.decode_bytes([token_id])
        return piece

    def longest_token(self) -> int:
        """Bytes of the longest token's text."""
        return max(len(self.piece(i, special=True)) for i in range(self._known))

    def check(self, grammar: Grammar) -> None:
        """Raises `GrammarError` where answers cannot follow that grammar."""
        compiled(grammar, self._bytes)
        self._good.put(grammar, True)

    def knows(self, grammar: Grammar) -> bool:
        """Whether it was checked, not long ago."""
        return grammar in self._good


def _without(source: dict[str, Any], control: list[dict[str, Any]]) -> Tokenizer:
    """An encoder that does not know the control tokens, and every other token by the same id.

    Added tokens that the vocabulary itself does not list are numbered in their order, so that one
    of them cannot be left out. It gets a name that nobody can write instead.

    Raises:
        ValueError: the tokenizer finds a control token in plain text all the same.
    """
    listed, nonce = source["model"]["vocab"], secrets.token_hex(16)
    known = {t["content"] for t in control}
    if isinstance(listed, list):  # of a unigram model: pairs of piece and score
        listed = {piece for piece, _ in listed}
    added = [
        t if t["content"] not in known else t | {"content": f"{nonce}:{t['id']}"}
        for t in source.get("added_tokens") or []
        if t["content"] not in known or t["content"] not in listed
    ]
    plain = Tokenizer.from_str(json.dumps(source | {"added_tokens": added}))
    for token in control:
        if token["id"] in plain.encode(token["content"], add_special_tokens=False).ids:
            raise ValueError(
                f"its tokenizer reads {token['content']!r} as a control token in any text, which "
                "would let the text of a user act as one"
            )
    return plain


def _is_control(token: dict[str, Any]) -> bool:
    return structures_a_prompt(token["content"], declared=token["special"])


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _spelling(token: str | dict[str, str] | None) -> str:
    return token["content"] if isinstance(token, dict) else token or ""


def _end_ids(folder: Path, eos: int | None) -> tuple[int, ...]:
    """The tokens that end a generation, of all the places that name one.

    Raises:
        ValueError: none does.
    """
    config = _read(folder / "config.json")
    named = (
        eos,
        _read(folder / "generation_config.json").get("eos_token_id"),
        config.get("eos_token_id"),
        config.get("text_config", {}).get("eos_token_id"),
    )
    ids = (i for item in named for i in (item if isinstance(item, list) else [item]))
    found = tuple(dict.fromkeys(i for i in ids if i is not None))
    if not found:
        raise ValueError("neither the tokenizer nor the configs name an end-of-sequence token")
    return found
