"""The tokenizer: byte-level BPE whose merges never cross the border of a word.

The merges are learned with letters, digits, punctuation and white space strictly apart; for use
the pattern is that of Qwen2, which llama.cpp knows by name. So every word of the tasks is the
same single token after a space, a quote or a line end, and copying it is easy to learn.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from training.layout import CONTROL_TOKENS, MARKER_TOKENS

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: The task texts are plain ASCII.
_LEARNING_PATTERN = re.compile(r"[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s")
_SPECIAL = re.compile("|".join(map(re.escape, (*CONTROL_TOKENS, *MARKER_TOKENS))))
#: Matrix kernels like row counts that are a multiple of this.
_VOCABULARY_MULTIPLE = 64

Pair = tuple[str, str]


def learn_merges(texts: Iterable[str]) -> list[Pair]:
    """Merges, most frequent pair first, until every word of the texts is one token."""
    encode = byte_alphabet()
    counts: Counter[str] = Counter()
    for text in texts:
        for part in _SPECIAL.split(text):
            counts.update(_LEARNING_PATTERN.findall(part))
    words = {tuple(encode[byte] for byte in word.encode()): n for word, n in sorted(counts.items())}
    merges: list[Pair] = []
    while pairs := _count_pairs(words):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merge(word, best): n for word, n in words.items()}
    return merges


def build_tokenizer(merges: list[Pair]) -> Tokenizer:
    """The tokenizer with the given merges, its special tokens and some padding entries."""
    alphabet = sorted(byte_alphabet().values())
    tokens = list(dict.fromkeys([*alphabet, *(left + right for left, right in merges)]))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    used = len(tokens) + len(CONTROL_TOKENS) + len(MARKER_TOKENS)
    spare = [f"<|extra_{i}|>" for i in range(-used % _VOCABULARY_MULTIPLE)]
    tokenizer.add_special_tokens([_added(t, special=True) for t in (*CONTROL_TOKENS, *spare)])
    tokenizer.add_tokens([_added(token, special=False) for token in MARKER_TOKENS])
    return tokenizer


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {byte: chr(byte) for byte in printable}
    return alphabet | {byte: chr(256 + i) for i, byte in enumerate(others)}


def merges_of(tokenizer: Tokenizer) -> list[Pair]:
    """The tokenizer's merges in order."""
    model = json.loads(tokenizer.to_str())["model"]
    return [(left, right) for left, right in model["merges"]]


def _added(token: str, *, special: bool) -> AddedToken:
    return AddedToken(token, normalized=False, special=special)


def _count_pairs(words: dict[tuple[str, ...], int]) -> Counter[Pair]:
    pairs: Counter[Pair] = Counter()
    for word, n in words.items():
        for pair in pairwise(word):
            pairs[pair] += n
    return pairs


def _merge(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)
