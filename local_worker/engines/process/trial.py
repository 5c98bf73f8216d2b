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

from local_worker.engines.process.grammar import GrammarError, Grammars, compiled, fault_of
from local_worker.types import Grammar

if TYPE_CHECKING:
    from collections.abc import Callable

CPU_SECONDS = 2
"""Of a processor, for one grammar; the largest that is taken in use has a tenth of that."""

MEMORY_BYTES = 1 << 30
"""Of addresses, for one grammar, beside what the process has."""

SHORT_SECONDS = 0.02
LOWEST_PRIORITY = 19
"""When a trial stands back behind the sequences that are decoded, and how far: see `commands`."""


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
        start: the process that tries them.
    """

    def __init__(self, grammars: Grammars, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._grammars = grammars
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None

    def knows(self, grammar: Grammar) -> bool:
        """As `Grammars.knows`."""
        return self._grammars.knows(grammar)

    def check(self, grammar: Grammar) -> None:
        """As `Grammars.check`.

        Raises:
            GrammarError: it takes more than it may, or answers cannot follow it.
            OSError: there is no process to try it in.
        """
        outcome = self._outcome(grammar)
        if outcome.refusal is not None:
            raise GrammarError(outcome.refusal, outcome.path)
        self._grammars.check(grammar)

    def _outcome(self, grammar: Grammar) -> Outcome:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = self._start()
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        process.stdin.write(msgspec.json.encode(grammar) + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise ChildProcessError("the process that tries grammars has ended")
        return msgspec.json.decode(line, type=Outcome)


def start() -> subprocess.Popen[bytes]:
    """The process, which ends with its standard input.

    Raises:
        OSError: it does not start.
    """
    return subprocess.Popen(  # noqa: S603 - this interpreter and this module
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def serve(grammars: BinaryIO, outcomes: BinaryIO) -> None:
    """Tries one after the other, until there are no more."""
    tokenizer = LLTokenizer("byte")
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
