"""The process's reader of commands, which answers tokenizer calls by itself."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from local_worker.engines.process import messages
from local_worker.engines.process.grammar import LOWEST_PRIORITY, SHORT_SECONDS, GrammarError

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_worker.engines.process.channel import Channel
    from local_worker.engines.process.grammar import Grammars
    from local_worker.engines.process.vocabulary import Vocabulary


class CommandReader(threading.Thread):
    """Reads commands and hands them on; calls are answered in threads of their own.

    A long text takes seconds to tokenize, and so may a grammar to compile; what others submit or
    abort must not wait behind it, nor one behind the other. A grammar that is known is no work, and
    does not wait until the processors have nothing better to do.

    Args:
        channel: to the server.
        vocabulary: for tokenizer calls.
        grammars: says which of them answers can follow.
        on_command: gets every other command, in this thread.
        on_end: ends the process, with this status: an orphan would keep the model's memory.
    """

    def __init__(
        self,
        channel: Channel,
        vocabulary: Vocabulary,
        grammars: Grammars,
        on_command: Callable[[messages.Command], None],
        on_end: Callable[[int], None],
    ) -> None:
        super().__init__(name="commands", daemon=True)
        self._channel = channel
        self._vocabulary = vocabulary
        self._known_grammars = grammars
        self._on_command = on_command
        self._on_end = on_end
        self._tokenizer = ThreadPoolExecutor(1, "tokenizer")
        self._compiler = ThreadPoolExecutor(1, "grammars")

    def run(self) -> None:
        """Until the server is gone, or something unforeseen: the process ends with this thread."""
        status = 1
        try:
            while (body := self._channel.receive()) is not None:
                self._dispatch(messages.command_decoder.decode(body))
            status = 0
        except BaseException:  # noqa: BLE001 - without its reader the process would be an orphan
            traceback.print_exc()
        self._on_end(status)

    def _dispatch(self, command: messages.Command) -> None:
        if isinstance(command, messages.Check):
            if self._known_grammars.knows(command.grammar):
                self._channel.send(messages.Checked(command.call_id))
            else:
                self._compiler.submit(self._answer_in_time, command)
        elif isinstance(command, messages.Call):
            self._tokenizer.submit(self._answer, command)
        else:
            self._on_command(command)

    def _answer_in_time(self, call: messages.Call) -> None:
        """In a thread of its own, since a thread that has stood back cannot step forward again."""
        thread = threading.Thread(target=self._answer, args=(call,), name="grammar", daemon=True)
        thread.start()
        thread.join(SHORT_SECONDS)
        if thread.is_alive():
            _stand_back(thread)
        thread.join()

    def _answer(self, call: messages.Call) -> None:
        try:
            if isinstance(call, messages.Tokenize):
                answer = self._tokenize(call)
            elif isinstance(call, messages.Detokenize):
                answer = self._detokenize(call)
            else:
                answer = self._check(call)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller must not wait for ever
            param = call.grammar.field if isinstance(call, messages.Check) else "text"
            answer = messages.CallFailed(call.call_id, f"the engine failed: {error}", param)
        self._channel.send(answer)

    def _check(self, call: messages.Check) -> messages.Answer:
        try:
            self._known_grammars.check(call.grammar)
        except GrammarError as error:
            place = call.grammar.field + error.path
            return messages.CallFailed(
                call.call_id, f"no answer can follow '{place}': {error}", place
            )
        return messages.Checked(call.call_id)

    def _tokenize(self, call: messages.Tokenize) -> messages.Answer:
        token_ids: list[int] = []
        for index, segment in enumerate(call.segments):
            token_ids += self._vocabulary.tokenize(
                segment.text,
                parse_special=segment.special,
                add_special=call.add_special and index == 0,
            )
        return messages.Tokens(call.call_id, tuple(token_ids))

    def _detokenize(self, call: messages.Detokenize) -> messages.Answer:
        size = self._vocabulary.vocab_size
        wrong = next((i for i in call.token_ids if not 0 <= i < size), None)
        if wrong is not None:
            message = f"token id {wrong} is outside the vocabulary (0..{size - 1})"
            return messages.CallFailed(call.call_id, message, "tokens")
        data = b"".join(self._vocabulary.piece(i, special=True) for i in call.token_ids)
        return messages.Text(call.call_id, data.decode(errors="replace"))


def _stand_back(thread: threading.Thread) -> None:
    """It takes what the others leave of the processor from now on: sequences are decoded."""
    # Elsewhere it is the whole process that has a priority.
    if sys.platform == "linux" and thread.native_id is not None:
        with contextlib.suppress(ProcessLookupError):  # it has ended just now
            os.setpriority(os.PRIO_PROCESS, thread.native_id, LOWEST_PRIORITY)
