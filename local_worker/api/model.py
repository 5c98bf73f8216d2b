"""The served model, as the API needs it: names, template, thought delimiters, effort policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from local_worker.errors import EffortNotEnforcedError, InvalidParameterError, UnknownModelError
from local_worker.prompts import ChatTemplate
from local_worker.reasoning.effort import (
    DEFAULT_LADDER,
    EffortPolicy,
)
from local_worker.toolcalls.formats import layout_of
from local_worker.toolcalls.grammars import CONTROL
from local_worker.types import (
    ClosedBy,
    GenerationRequest,
    PromptSegment,
    SamplingParams,
    ThinkingParams,
    ThinkingTokens,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_worker.catalog.schema import Probe, SamplingDefaults, ThinkingSpec
    from local_worker.config import ServerConfig
    from local_worker.engine import Engine
    from local_worker.rules import EarlyExit, EffortRule

SELF_TEST_BUDGET = 8
SELF_TEST_ANSWER = 8


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model beside its weights.

    Attributes:
        names: what clients may call it; the first is its own.
        thinking: how it thinks; None where it does not, or where nobody knows how.
        sampling: the vendor's recommendation.
        created: the model file's time stamp, in seconds since 1970.
    """

    names: tuple[str, ...]
    thinking: ThinkingSpec | None
    sampling: SamplingDefaults
    created: int = 0


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Outcome of the effort self-test. `problem` is None where budgets hold."""

    problem: str | None
    summary: str


@dataclass(frozen=True, slots=True)
class Router:
    """How `auto` asks this model.

    Attributes:
        probe: in which words.
        labels: token id -> the level that it stands for.
        rules: efforts that are fixed before.
    """

    probe: Probe
    labels: Mapping[int, str]
    rules: tuple[EffortRule, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolLayout:
    """How this model writes calls.

    Attributes:
        name: of the layout.
        token_ids: of its control spellings.
        tokens: calls' delimiters, for models that do not think.
    """

    name: str
    token_ids: Mapping[str, tuple[int, ...]]
    tokens: ThinkingTokens

    @property
    def held(self) -> bool:
        """Whether calls are held to a grammar: it needs tokens that begin and end them."""
        return bool(self.token_ids) and all(len(ids) == 1 for ids in self.token_ids.values())


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Everything that is fixed once the model is loaded.

    Attributes:
        card: names, delimiters, sampling.
        template: None where the model file has none: then there is no chat.
        tokens: the delimiters as token ids; None where the model does not think.
        policy: levels and limits.
        max_model_len: prompt and output of one request.
        vocab_size: token ids are below it.
        self_test: outcome; None before it ran.
        router: None where `auto` cannot be had.
        early_exit: when a thought may end early; None where none can.
        exits_early: whether those that `auto` has chosen do, unless a request says otherwise.
        tools: how it calls them; None where its template has no place for any.
        limits: what the engine cannot serve, as (request field, reason).
        adapters: LoRA adapters, which clients name in place of the model.
    """

    card: ModelCard
    template: ChatTemplate | None
    tokens: ThinkingTokens | None
    policy: EffortPolicy
    max_model_len: int
    vocab_size: int
    self_test: SelfTest | None = None
    router: Router | None = None
    early_exit: EarlyExit | None = None
    exits_early: bool = False
    tools: ToolLayout | None = None
    limits: tuple[tuple[str, str], ...] = ()
    adapters: tuple[str, ...] = ()
    allow_unenforced: bool = False

    @property
    def name(self) -> str:
        """What responses call it."""
        return self.card.names[0]

    @property
    def ready(self) -> bool:
        """Whether /ready may say so."""
        test = self.self_test
        return test is not None and (test.problem is None or self.allow_unenforced)

    def adapter_named(self, name: str | None) -> str | None:
        """The LoRA adapter that a request's `model` names; None is the model as it is.

        Raises:
            UnknownModelError: the name is neither the model's nor an adapter's.
        """
        if name is None or name.lower() in (known.lower() for known in self.card.names):
            return None
        if name in self.adapters:
            return name
        served = ", ".join(repr(known) for known in (self.name, *self.adapters))
        raise UnknownModelError(
            f"the model {name!r} is not served here; this server has {served}", param="model"
        )

    def check_effort(self, field: str | None) -> None:
        """Raises `EffortNotEnforcedError` when effort is asked for and budgets do not hold."""
        problem = self.self_test.problem if self.self_test else None
        if field is not None and problem is not None and not self.allow_unenforced:
            raise EffortNotEnforcedError(
                f"thinking budgets do not hold for this model ({problem}); leave '{field}' out, or "
                "start the server with --allow-unenforced-effort",
                param=field,
            )

    def chat_template(self) -> ChatTemplate:
        """The template; raises `InvalidParameterError` where there is none."""
        if self.template is None:
            raise InvalidParameterError(
                "this model file has no chat template; use /v1/completions", param="messages"
            )
        return self.template


async def load_model(engine: Engine, card: ModelCard, config: ServerConfig) -> ServedModel:
    """Puts a served model together from a ready engine, self-test included."""
    info, spec = engine.info, card.thinking
    template = None
    if info.chat_template is not None:
        template = ChatTemplate(
            info.chat_template,
            bos_token=info.bos_token,
            eos_token=info.eos_token,
            control_tokens=info.control_tokens,
            delimiters=() if spec is None else _delimiters(spec),
        )
    tokens = await _thinking_tokens(engine, spec, config.budget_message) if spec else None
    layout = await _tool_layout(engine)
    if layout is not None and tokens is not None and layout.tokens.tool_start:
        ours = layout.tokens
        tokens = replace(tokens, tool_start=ours.tool_start, tool_end=ours.tool_end)
    router = await _router(engine, spec, config) if spec and template else None
    model = ServedModel(
        card=card,
        template=template,
        tokens=tokens,
        policy=_policy(spec, tokens, config, auto=router is not None),
        router=router,
        early_exit=spec.early_exit if spec and tokens else None,
        exits_early=_exits_early(spec, config),
        tools=layout,
        max_model_len=info.max_model_len,
        limits=tuple((field, f"{info.engine}: {reason}") for field, reason in info.limits),
        adapters=info.adapters,
        vocab_size=info.vocab_size,
        allow_unenforced=config.allow_unenforced_effort,
    )
    return replace(model, self_test=await self_test(engine, model))


async def _tool_layout(engine: Engine) -> ToolLayout | None:
    name = layout_of(engine.info.chat_template or "")
    if name is None:
        return None
    control = CONTROL.get(name, ())
    token_ids = {text: await engine.tokenize([PromptSegment(text)]) for text in control}
    delimiters = [token_ids[text] for text in control[:2]]
    if name == "mistral":  # its calls end where others begin, or with the turn
        delimiters[1] = ()
    start, end = delimiters or ((), ())
    return ToolLayout(name, token_ids, ThinkingTokens((), (), (), (), start, end))


def _delimiters(spec: ThinkingSpec) -> tuple[str, ...]:
    tools = (spec.tool_call_start, spec.tool_call_end)
    return (spec.start.strip(), spec.end.strip(), *(text for text in tools if text))


async def _thinking_tokens(engine: Engine, spec: ThinkingSpec, message: str) -> ThinkingTokens:
    async def ids(text: str | None) -> tuple[int, ...]:
        return await engine.tokenize([PromptSegment(text)]) if text else ()

    return ThinkingTokens(
        # Without the white space that ends it: the model may sample another kind of it there.
        start=await ids(spec.start.rstrip()),
        end=await ids(spec.end),
        close=await ids(message + spec.close),
        close_after_newline=await ids(message + spec.close.removeprefix("\n")),
        tool_start=await ids(spec.tool_call_start),
        tool_end=await ids(spec.tool_call_end),
        silent=tuple([await ids(text) for text in answer_headers(spec)]),
    )


def answer_headers(spec: ThinkingSpec) -> tuple[str, ...]:
    """What the family writes between a thought and its answer, and before an answer without one.

    gpt-oss closes with `<|end|><|start|>assistant<|channel|>final<|message|>`; where it does not
    think, its turn begins with `<|channel|>final<|message|>`.
    """
    after_thought = spec.close.partition(spec.end)[2].strip()
    marker = spec.start[: spec.start.find(">") + 1]
    headers = [after_thought]
    if marker and marker in after_thought:
        headers.append(after_thought[after_thought.index(marker) :])
    return tuple(dict.fromkeys(header for header in headers if header))


async def _router(engine: Engine, spec: ThinkingSpec, config: ServerConfig) -> Router | None:
    """None where one step cannot tell the levels: two labels begin with the same token, say."""
    if "logit_bias" in dict(engine.info.limits):
        return None
    labels = {
        (await engine.tokenize([PromptSegment(text)]))[0]: str(level)
        for level, text in spec.probe.labels.items()
    }
    if len(labels) < len(spec.probe.labels):
        return None
    return Router(spec.probe, labels, (*config.effort_rules, *spec.rules))


def _exits_early(spec: ThinkingSpec | None, config: ServerConfig) -> bool:
    if config.early_exit is not None:
        return config.early_exit
    return spec is not None and spec.early_exit.pays


def _policy(
    spec: ThinkingSpec | None, tokens: ThinkingTokens | None, config: ServerConfig, *, auto: bool
) -> EffortPolicy:
    if spec is None or tokens is None:
        return EffortPolicy(can_think=False, ladder=DEFAULT_LADDER)
    return EffortPolicy(
        can_think=True,
        ladder={str(level): budget for level, budget in spec.effort.items()},
        auto=auto,
        model_default=spec.default_effort,
        server_default=config.default_effort,
        ceiling=config.max_thinking_tokens,
        answer_allowance=spec.answer_allowance,
        closer_length=len(tokens.close),
    )


async def self_test(engine: Engine, model: ServedModel) -> SelfTest:
    """Generates with a tiny budget and looks whether the thought closes inside it.

    The prompt opens a thought whether or not the template does, so that the closing is really
    exercised on models that would not think about a greeting.
    """
    spec, tokens = model.card.thinking, model.tokens
    if spec is None or tokens is None:
        return SelfTest(None, "the model does not think; nothing to enforce")
    prompt = await engine.tokenize([PromptSegment(f"Hello.\n{spec.start}")], add_special=True)
    request = GenerationRequest(
        request_id="effort-self-test",
        prompt_token_ids=prompt,
        max_tokens=SELF_TEST_BUDGET + len(tokens.close) + SELF_TEST_ANSWER,
        sampling=SamplingParams(temperature=0, min_tokens=SELF_TEST_BUDGET + len(tokens.close) + 1),
        thinking=ThinkingParams(tokens, SELF_TEST_BUDGET, starts_inside=True),
    )
    text, used, closed_by = "", 0, ClosedBy.NONE
    async for output in engine.generate(request):
        text += "".join(delta.text for delta in output.deltas)
        used = output.num_reasoning_tokens
        if output.finish is not None:
            closed_by = output.finish.closed_by
    summary = f"budget {SELF_TEST_BUDGET}: {used} thinking tokens, closed by {closed_by}"
    return SelfTest(await _problem(engine, spec, text, used, closed_by), summary)


async def _problem(
    engine: Engine, spec: ThinkingSpec, text: str, used: int, closed_by: ClosedBy
) -> str | None:
    if used > SELF_TEST_BUDGET:
        return f"{used} thinking tokens were sampled under a budget of {SELF_TEST_BUDGET}"
    if closed_by in (ClosedBy.NONE, ClosedBy.MAX_TOKENS):
        return "the thought was not closed"
    for delimiter in (spec.start.strip(), spec.end.strip()):
        if delimiter in text:
            return f"the delimiter {delimiter!r} reached the text"
        as_token = await engine.tokenize([PromptSegment(delimiter)])
        as_text = await engine.tokenize(
            [
                PromptSegment(delimiter[0], special=False),
                PromptSegment(delimiter[1:], special=False),
            ]
        )
        if as_token == as_text:
            return f"the tokenizer does not know the delimiter {delimiter!r} as a token"
    return None
