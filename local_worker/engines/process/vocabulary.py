"""What the engines' vocabularies have in common."""

from __future__ import annotations

import re
from typing import Protocol

_STRUCTURE = re.compile(r"<\||.*\|>$|</?(think|tool|function|channel|turn)\w*>$|\[/?[A-Z_]+\]$")


class Named(Protocol):
    """What of a vocabulary can be named."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def control(self) -> dict[int, str]:
        """Spellings of the tokens that are no text, by their ids."""
        ...


class Vocabulary(Named, Protocol):
    """The tokens of a model. Safe to use from several threads."""

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        """Token ids of a text. Control tokens are recognised only where `parse_special` is set."""
        ...

    def piece(self, token_id: int, *, special: bool = False) -> bytes:
        """The bytes of one token; control tokens are empty unless `special` is set."""
        ...


def structures_a_prompt(spelling: str, *, declared: bool) -> bool:
    """Whether a token is structure, which people's text must not contain.

    Args:
        spelling: its text.
        declared: whether the model's files call it a control token. Of the other tokens that they
            add to the vocabulary, some structure a prompt all the same (tool results, thoughts),
            and the rest is text (HTML tags, runs of spaces).
    """
    return bool(spelling.strip()) and (declared or bool(_STRUCTURE.match(spelling)))
