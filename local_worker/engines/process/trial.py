"""Bounds what compiling a grammar may take, by trying it in a process that can be ended.

llguidance's own limits count the steps of its lexer and parser. They say nothing of sums: of two
`multipleOf` that have to hold together it looks for a number through all remainders, which takes
minutes for a schema of sixty characters, and nothing ends a thread. So a grammar that nobody has
sent before is compiled in a process first, with an allowance of processor time and memory.

    python -m local_worker.engines.process.trial     reads grammars, and says how each ended

That process stays, and forks for each: a fork takes a millisecond, a start fifty.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import msgspec
from llguidance import LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from local_worker.engines.process.grammar import (
    LOWEST_PRIORITY,
    SHORT_SECONDS,
    GrammarError,
    Grammars,
    Known,
    compiled,
    fault_of,
)
from local_worker.types import Grammar

if TYPE_CHECKING:
    from local_worker.engines.process.vocabulary import Named

CPU_SECONDS = 2
"""Of a processor, for one grammar; the largest that is taken in use has a tenth of that."""

MEMORY_BYTES = 1 << 30
"""Of addresses, for one grammar, beside what the process has."""


class Names(msgspec.Struct, frozen=True):
    """What of a vocabulary a grammar can name.

    Attributes:
        size: token ids there are.
        control: spellings of the control tokens, by their ids.
    """

    size: int
    control: dict[int, str]


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a trial ended.

    Attributes:
        refusal: why answers cannot follow the grammar; None where they can.
        path: to the part at fault.
    """

    refusal: str | None = None
    path: str = ""


TOO_MUCH = Outcome(
    f"compiling it takes more than {CPU_SECONDS} s of processor time or {MEMORY_BYTES >> 20} MiB "
    "(a large 'multipleOf', or several that have to hold together, are a known cause)"
)


class Bounded:
    """Grammars that compile within the allowance. Implements `Grammars`; one check at a time.

    Args:
        grammars: that compile them for the vocabulary.
        vocabulary: of which they can name the control tokens.
    """

    def __init__(self, grammars: Grammars, vocabulary: Named) -> None:
        self._grammars = grammars
        self._vocabulary = vocabulary
        self._process: subprocess.Popen[bytes] | None = None
        self._too_much: Known[bool] = Known()

    def knows(self, grammar: Grammar) -> bool:
        """As `Grammars.knows`."""
        return self._grammars.knows(grammar)

    def check(self, grammar: Grammar) -> None:
        """As `Grammars.check`.

        Raises:
            GrammarError: it takes more than it may, or answers cannot follow it.
            OSError, EOFError: there is no process to try it in, nor another one.
        """
        outcome = self._outcome(grammar)
        if outcome.refusal is not None:
            raise GrammarError(outcome.refusal, outcome.path)
        self._grammars.check(grammar)

    def _outcome(self, grammar: Grammar) -> Outcome:
        if grammar in self._too_much:
            return TOO_MUCH
        try:
            outcome = self._asked(grammar)
        except (BrokenPipeError, EOFError):  # somebody has killed it: a new one is asked
            outcome = self._asked(grammar)
        if outcome == TOO_MUCH:
            self._too_much.put(grammar, True)
        return outcome

    def _asked(self, grammar: Grammar) -> Outcome:
        process = self._process
        if process is None or process.poll() is not None:
            names = Names(self._vocabulary.vocab_size, self._vocabulary.control)
            process = self._process = _start(names)
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        process.stdin.write(msgspec.json.encode(grammar) + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            process.wait()
            raise EOFError("the process that tries grammars has ended")
        return msgspec.json.decode(line, type=Outcome)


def _start(names: Names) -> subprocess.Popen[bytes]:
    """The process, which ends with its standard input."""
    process = subprocess.Popen(  # noqa: S603 - this interpreter and this module
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None, "a pipe"
    process.stdin.write(msgspec.json.encode(names) + b"\n")
    return process


class _Bytes:
    """A vocabulary of single bytes that has the control tokens, too, for llguidance's wrapper.

    What a grammar takes to compile is a matter of its own rules. Reading 262,144 real tokens takes
    seconds.
    """

    bos_token_id = None

    def __init__(self, names: Names) -> None:
        self._first = names.size
        self.eos_token_id = names.size + 256
        self.tokens = [b""] * names.size + [bytes([byte]) for byte in range(256)] + [b"</trial>"]
        for token_id, spelling in names.control.items():
            self.tokens[token_id] = spelling.encode()
        self.special_token_ids = [*sorted(names.control), self.eos_token_id]

    def __call__(self, text: str) -> list[int]:
        """Token ids of a text."""
        return [self._first + byte for byte in text.encode()]


def serve(lines: BinaryIO, outcomes: BinaryIO) -> None:
    """Tries one grammar after the other, until there are no more."""
    grammars = iter(lines)
    first = next(grammars, None)
    if first is None:
        return
    vocabulary = _Bytes(msgspec.json.decode(first, type=Names))
    tokenizer = LLTokenizer(TokenizerWrapper(vocabulary), eos_token=[vocabulary.eos_token_id])
    decoder = msgspec.json.Decoder(Grammar)
    for line in grammars:
        outcomes.write(_tried_in_fork(decoder.decode(line), tokenizer) + b"\n")
        outcomes.flush()


def _tried_in_fork(grammar: Grammar, tokenizer: LLTokenizer) -> bytes:
    """The last word of a fork of this process, which has no other thread."""
    theirs, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        _try(grammar, tokenizer, ours)
    os.close(ours)
    if not select.select([theirs], [], [], SHORT_SECONDS)[0]:
        os.setpriority(os.PRIO_PROCESS, pid, LOWEST_PRIORITY)
    with os.fdopen(theirs, "rb") as pipe:
        words = pipe.read()
    os.waitpid(pid, 0)
    said = words.splitlines()
    return said[-1] if said else msgspec.json.encode(TOO_MUCH)


def _try(grammar: Grammar, tokenizer: LLTokenizer, pipe: int) -> NoReturn:
    """In the fork: it ends without a word where it takes too much."""
    try:
        _allow(resource.RLIMIT_CORE, 0)
        _allow(resource.RLIMIT_CPU, CPU_SECONDS)
        _allow(resource.RLIMIT_AS, MEMORY_BYTES + _address_space())
        # Should the process be killed, this one must not look like it.
        os.close(sys.stdin.fileno())
        os.close(sys.stdout.fileno())
        # What the library says of its own failures has nobody to hear it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        _say(pipe, _tried(grammar, tokenizer, pipe))
    finally:
        os._exit(0)


def _tried(grammar: Grammar, tokenizer: LLTokenizer, pipe: int) -> Outcome:
    try:
        compiled(grammar, tokenizer)
    except GrammarError as error:
        refusal, path = str(error), error.path
    else:
        return Outcome()
    # Looking for the part at fault may take too much where finding that there is one did not.
    _say(pipe, Outcome(refusal, path))
    return Outcome(refusal, path or fault_of(grammar, refusal, tokenizer))


def _say(pipe: int, outcome: Outcome) -> None:
    os.write(pipe, msgspec.json.encode(outcome) + b"\n")


def _allow(what: int, amount: int) -> None:
    # Not every system bounds addresses, and an administrator may have set less.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (amount, amount))


def _address_space() -> int:
    """Bytes of addresses that the process has; 0 where nobody tells."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
