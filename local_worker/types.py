"""The values that cross the border between the API and an engine: frozen, and of neither side.

Token ids are ints of the model's vocabulary; counts are tokens unless a name says otherwise; times
are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Channel(StrEnum):
    """Where a piece of generated text belongs."""

    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_CALL = "tool_call"


class FinishReason(StrEnum):
    """Why a sequence ended.

    `STOP` is an end-of-generation token or a stop string, `LENGTH` is max_tokens or the context's
    end, `ABORT` is a client that went away, `ERROR` carries a message.
    """

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class ClosedBy(StrEnum):
    """What ended the (last) thought of a turn."""

    MODEL = "model"
    BUDGET = "budget"
    SOFT = "soft"
    TOOL_CALL = "tool_call"
    EARLY = "early"
    MAX_TOKENS = "max_tokens"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 keeps the whole vocabulary.
        top_p: nucleus, in (0, 1].
        min_p: drops tokens below this share of the most probable one, in [0, 1].
        presence_penalty: subtracted once from every token already in the output.
        frequency_penalty: subtracted per occurrence in the output.
        repeat_penalty: divides (or multiplies, below zero) the logits of every token in the prompt
            or the output; 1 is off.
        logit_bias: (token id, added to its logit) pairs.
        seed: of this sequence's own random stream; None leaves it to the engine, which may then
            draw for a whole batch at once.
        logprobs: how many alternatives to report per token; None reports nothing.
        min_tokens: no end-of-generation token and no stop string before so many tokens.
        ignore_eos: never end before max_tokens.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class ThinkingTokens:
    """A family's thought delimiters as token ids of the loaded model.

    Attributes:
        start: opens a thought.
        end: closes it.
        close: what a forced close appends (the operator's message, if any, then the closer).
        close_after_newline: the same after a thought that ends in a line end.
        tool_start: opens a tool call; empty where the family has none.
        tool_end: closes it.
        silent: sequences outside a thought that only give the turn its structure (gpt-oss opens
            its answer with a header of its own); they are no part of the text.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    close: tuple[int, ...]
    close_after_newline: tuple[int, ...]
    tool_start: tuple[int, ...] = ()
    tool_end: tuple[int, ...] = ()
    silent: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class ThinkingParams:
    """The thinking part of one request.

    Attributes:
        tokens: the delimiters.
        budget: sampled thinking tokens for the whole turn; None is no bound of its own.
        starts_inside: the prompt ends inside a thought that the template opened.
        calls_apart: a call that is opened inside a thought closes it first, like a budget does.
        used: of the budget, by tokens of the turn that are part of the prompt by now.
    """

    tokens: ThinkingTokens
    budget: int | None
    starts_inside: bool = False
    calls_apart: bool = False
    used: int = 0


class GrammarKind(StrEnum):
    """The language a grammar is written in."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like, from its first token to its last. A thought is free.

    Attributes:
        kind: how to read the source.
        source: a JSON schema, a regular expression (of Rust's regex crate), a JSON array of texts
            to choose from, or a context-free grammar (Lark as llguidance reads it, or GBNF, or
            Lark and nothing else).
        field: the request field it came in, for complaints.
    """

    kind: GrammarKind
    source: str
    field: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    Attributes:
        request_id: unique in the server.
        prompt_token_ids: at least one.
        max_tokens: output tokens at the most, thought and forced closers included; at least 1.
        stop: strings that end the answer; they are not searched inside a thought.
        thinking: None leaves the output as it comes, all of it content.
        grammar: what the answer must look like; None leaves it free. It excludes `min_tokens` and
            `ignore_eos`, since where it ends nothing else can follow.
        calls_tools: tool calls go out on a channel of their own, delimiters included and control
            tokens spelled out; stop strings are not searched there. The grammar, if there is one,
            has them in it.
        background: may wait while others do not; never for ever.
        cache_salt: prefixes are shared only with requests that have the same one.
        adapter: name of the LoRA adapter to compute with; None is the model as it is.
        pinned: the prompt is kept for everybody, whatever its salt, for as long as the engine
            runs; only engines whose `EngineInfo.pins` says so take it.
        continues_at: so many tokens of the prompt are what another request will begin with soon;
            an engine whose memory cannot go back keeps what it has there.
        traced: outputs carry their tokens, and the first one how it began.
        goes_on: it is the next part of a sequence that ran until now: it waits for no newcomer.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = SamplingParams()
    stop: tuple[str, ...] = ()
    thinking: ThinkingParams | None = None
    grammar: Grammar | None = None
    calls_tools: bool = False
    background: bool = False
    cache_salt: str = ""
    adapter: str | None = None
    pinned: bool = False
    continues_at: int | None = None
    traced: bool = False
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text on one channel."""

    channel: Channel
    text: str


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A content token's log-probability under the model's own distribution.

    `top` holds the most probable alternatives, best first, as (token bytes, logprob).
    """

    token_id: int
    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """The one terminal message of a sequence.

    Attributes:
        reason: why it ended.
        closed_by: what ended its last thought.
        stop: the stop string that matched.
        error: what went wrong, for `FinishReason.ERROR`.
        param: the field of the request that is to blame for it, if one is.
        queued: seconds from arrival in the engine to the first computed token.
        prefill: seconds from there to the first output token.
        decode: seconds from there to the end.
        cached_tokens: of the prompt, that were not computed for this sequence.
        trial_tokens: of answers that were tried in mid-thought and not taken.
        jumped_tokens: of the answer, that its grammar left no choice about: no step was needed to
            find them.
    """

    reason: FinishReason
    closed_by: ClosedBy = ClosedBy.NONE
    stop: str | None = None
    error: str | None = None
    param: str | None = None
    queued: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    cached_tokens: int = 0
    trial_tokens: int = 0
    jumped_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """How a sequence began; see `Finish` for the fields."""

    queued: float
    prefill: float
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """The tokens behind a step's output.

    Attributes:
        token_ids: that became part of the sequence.
        piece: the bytes of the sampled one among them, white space that no text shows included.
        thinking: whether the next token belongs to a thought, and none of a delimiter's is held.
        start: how the sequence began, on its first output.
    """

    token_ids: tuple[int, ...]
    piece: bytes
    thinking: bool
    start: Start | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one decode step brought for one sequence.

    Attributes:
        request_id: whose.
        deltas: new text in order; may be empty while text is held back.
        num_tokens: output tokens so far, forced ones included.
        num_reasoning_tokens: of those, sampled inside a thought.
        logprobs: of the content tokens released by this step.
        finish: set on the last output and only there.
        trace: of this step, where the request is traced.
    """

    request_id: str
    deltas: tuple[TextDelta, ...] = ()
    num_tokens: int = 0
    num_reasoning_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class PromptSegment:
    """A stretch of prompt text. Special tokens are recognised in it only where `special` is set."""

    text: str
    special: bool = True


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says about itself and its model once it is ready.

    Attributes:
        engine: its name, e.g. `llama.cpp`.
        version: of the library.
        model_name: as the model file calls itself.
        vocab_size: number of token ids.
        max_model_len: prompt and output tokens of one request at the most.
        max_num_seqs: sequences that run at a time.
        kv_capacity: KV cells shared by all running sequences.
        chat_template: jinja2 source from the model file.
        bos_token: text of the beginning-of-sequence token, empty where there is none.
        eos_token: text of the end-of-sequence token.
        longest_token: bytes of the longest token's text, at least: longer prompts than
            `max_model_len` times this cannot fit.
        control_tokens: spellings of the tokens that structure a prompt.
        adapters: names of the LoRA adapters it has loaded.
        limits: features this engine cannot serve, as (request field, reason).
    """

    engine: str
    version: str
    model_name: str
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    kv_capacity: int
    chat_template: str | None = None
    bos_token: str = ""
    eos_token: str = ""
    longest_token: int = 256
    control_tokens: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    limits: tuple[tuple[str, str], ...] = ()
    pins: bool = False


@dataclass(frozen=True, slots=True)
class EngineSeconds:
    """What an engine process has spent its time on, waiting for work aside.

    Attributes:
        schedule: reading commands, and deciding what comes into the next step.
        compute: the native decode.
        sample: from logits to tokens and text.
        send: telling the server.
    """

    schedule: float = 0.0
    compute: float = 0.0
    sample: float = 0.0
    send: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges and counters of an engine, as of its last step.

    `guessed_tokens` were computed before they were known, and `right_guesses` of them for good.
    `kv_separate` says that each sequence has KV cells of its own at present, and shares none.
    `seconds` and `threads` (of the last decode step) are None where the engine does not say.
    """

    waiting: int = 0
    running: int = 0
    kv_used: int = 0
    kv_capacity: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    padding_rows: int = 0
    guessed_tokens: int = 0
    right_guesses: int = 0
    kv_separate: bool = False
    restarts: int = 0
    threads: int | None = None
    seconds: EngineSeconds | None = None
