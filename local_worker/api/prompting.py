"""The prompts of a chat request: its messages with a thought, without one, and as a question."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from local_worker.api import translate
from local_worker.api.jobs import tokenize_prompt
from local_worker.api.messages import messages_of
from local_worker.prompts import closed_thought
from local_worker.types import PromptSegment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from local_worker.api.schemas import ChatBody
    from local_worker.api.state import ApiState
    from local_worker.catalog.schema import Probe, ThinkingSpec

    Shown = Sequence[Mapping[str, object]]


class Prompt(NamedTuple):
    """A rendered prompt, and its token ids."""

    segments: tuple[PromptSegment, ...]
    token_ids: tuple[int, ...]


class Prompter:
    """Makes the prompts of one request, each once."""

    def __init__(self, state: ApiState, body: ChatBody, tools: Shown = ()) -> None:
        self._state = state
        self._body = body
        self._tools = tools
        self._made: dict[str, Prompt] = {}

    async def prompt(self, level: str, *, thinking: bool) -> Prompt:
        """Up to the generation prompt, as the template writes it for that level."""
        variables = self._variables(level, thinking=thinking)
        key = repr(variables)
        if key not in self._made:
            template = self._state.model.chat_template()
            segments = template.render(self._messages, variables, tools=self._tools)
            self._made[key] = await self._tokenized(segments)
        return self._made[key]

    async def closed(self, level: str) -> Prompt:
        """With a thought that is over before it has begun.

        What comes before it is the same as with a thought, and so is what lies in the cache: some
        templates have the switch in their system turn.
        """
        segments, token_ids = await self.prompt(level, thinking=True)
        spec = self._spec()
        segment = closed_thought(segments, spec.start, spec.close)
        more = await self._state.engine.tokenize([segment])
        return Prompt((*segments, segment), token_ids + more)

    async def question(self, level: str, probe: Probe) -> Prompt:
        """What asks the model for the effort: its next token is a label."""
        variables = self._variables(level, thinking=True)
        template, messages = self._state.model.chat_template(), self._messages
        if probe.suffix is not None:
            segments = template.render(
                messages, variables, tools=self._tools, generation_prompt=False
            )
            return await self._tokenized((*segments, PromptSegment(probe.suffix)))
        spec = self._spec()
        asked = with_question(messages, probe.question)
        segments = template.render(asked, variables, tools=self._tools)
        closer = closed_thought(segments, spec.start, spec.close)
        return await self._tokenized((*segments, closer))

    @cached_property
    def _messages(self) -> list[dict[str, Any]]:
        return messages_of(self._body.messages)

    def _variables(self, level: str, *, thinking: bool) -> dict[str, Any]:
        spec = self._state.model.card.thinking
        return translate.template_variables(self._body, spec, level, thinking=thinking)

    def _spec(self) -> ThinkingSpec:
        spec = self._state.model.card.thinking
        assert spec is not None, "a model that does not think is not asked how much"
        return spec

    async def _tokenized(self, segments: tuple[PromptSegment, ...]) -> Prompt:
        return Prompt(segments, await tokenize_prompt(self._state.engine, segments, "messages"))


def with_question(messages: list[dict[str, Any]], question: str) -> list[dict[str, Any]]:
    """The messages with a question at their end; most templates want roles to take turns."""
    last = messages[-1]
    if last["role"] == "user":
        return [*messages[:-1], {**last, "content": f"{last['content']}\n\n{question}"}]
    return [*messages, {"role": "user", "content": question}]
