from __future__ import annotations

import queue
import socket

import pytest

from local_worker.engines.process import messages
from local_worker.engines.process.channel import Channel
from local_worker.engines.process.commands import CommandReader
from local_worker.engines.process.grammar import GrammarError
from local_worker.types import Grammar, GrammarKind, PromptSegment


class Letters:
    """A vocabulary of the 256 bytes; it breaks on a text that asks for it."""

    vocab_size = 256
    control: dict[int, str] = {}  # noqa: RUF012 - nobody changes it

    def tokenize(self, text, *, parse_special, add_special=False):
        if text == "BREAK":
            raise RuntimeError("told to")
        return [0] * add_special + list(text.encode()) + [255] * parse_special

    def piece(self, token_id, *, special=False):
        return bytes([token_id])


class Grammars:
    """Those called good are, and are known once they were checked."""

    def __init__(self):
        self.checked = []

    def check(self, grammar):
        self.checked.append(grammar)
        if grammar.source != "good":
            raise GrammarError("it is not good", ".a")

    def knows(self, grammar):
        return grammar.source == "good" and grammar in self.checked


@pytest.fixture
def grammars():
    return Grammars()


@pytest.fixture
def process(grammars):
    """The server's end of a reader's socket, and what the reader hands on."""
    ours, theirs = socket.socketpair()
    commands: queue.SimpleQueue[messages.Command] = queue.SimpleQueue()
    ends: queue.SimpleQueue[int] = queue.SimpleQueue()
    channel = Channel(theirs)
    CommandReader(channel, Letters(), grammars, commands.put, ends.put).start()
    ours.settimeout(10)
    yield ours, commands, ends
    ours.close()
    channel.close()


def ask(ours, call):
    ours.sendall(messages.frame(call))
    (length,) = messages.HEADER.unpack(ours.recv(messages.HEADER.size, socket.MSG_WAITALL))
    return messages.event_decoder.decode(ours.recv(length, socket.MSG_WAITALL))


def test_segments_are_tokenized_one_after_the_other(process):
    segments = (PromptSegment("a"), PromptSegment("b", special=False))
    answer = ask(process[0], messages.Tokenize(7, segments, True))
    assert answer == messages.Tokens(7, (0, ord("a"), 255, ord("b")))


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("good", messages.Checked(3)),
        (
            "bad",
            messages.CallFailed(
                3, "no answer can follow 'guided_regex.a': it is not good", "guided_regex.a"
            ),
        ),
    ],
)
def test_a_grammar_is_checked_and_its_field_named(process, source, answer):
    grammar = Grammar(GrammarKind.REGEX, source, "guided_regex")
    assert ask(process[0], messages.Check(3, grammar)) == answer


def test_a_known_grammar_is_not_checked_again(process, grammars):
    grammar = Grammar(GrammarKind.REGEX, "good", "guided_regex")
    for call_id in (1, 2, 3):
        assert ask(process[0], messages.Check(call_id, grammar)) == messages.Checked(call_id)
    assert grammars.checked == [grammar]


def test_ids_become_text_again_and_wrong_ones_are_named(process):
    assert ask(process[0], messages.Detokenize(1, (104, 105))) == messages.Text(1, "hi")
    refused = ask(process[0], messages.Detokenize(2, (1, 256)))
    assert refused == messages.CallFailed(
        2, "token id 256 is outside the vocabulary (0..255)", "tokens"
    )


def test_a_tokenizer_that_breaks_is_an_answer_too(process):
    answer = ask(process[0], messages.Tokenize(3, (PromptSegment("BREAK"),), False))
    assert answer == messages.CallFailed(3, "the engine failed: told to", "text")


def test_every_other_command_is_handed_on(process):
    ours, commands, _ = process
    ours.sendall(messages.frame(messages.Submit((), ("r",))) + messages.frame(messages.Shutdown()))
    assert commands.get(timeout=10) == messages.Submit((), ("r",))
    assert commands.get(timeout=10) == messages.Shutdown()


def test_the_process_ends_with_the_server(process):
    ours, _, ends = process
    ours.close()
    assert ends.get(timeout=10) == 0


def test_the_process_ends_where_its_reader_does(process, capfd):
    ours, _, ends = process
    ours.sendall(messages.HEADER.pack(3) + b"\xc1\xc1\xc1")
    assert ends.get(timeout=10) == 1
