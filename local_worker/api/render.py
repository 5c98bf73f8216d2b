"""Engine output as OpenAI's response objects. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_worker.types import Channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_worker.api.choices import Choice
    from local_worker.api.tools import CallReader
    from local_worker.economics.books import Bill, Order
    from local_worker.reasoning.effort import EffortChoice
    from local_worker.reasoning.routing import Decision
    from local_worker.types import StepOutput, TokenLogprob

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one response carries.

    Attributes:
        response_id: e.g. `chatcmpl-...`.
        created: seconds since 1970.
        model: the served model's name.
        fingerprint: of the server.
    """

    response_id: str
    created: int
    model: str
    fingerprint: str

    def object(self, kind: str, **fields: object) -> Json:
        """A response object of that kind."""
        return {
            "id": self.response_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            **fields,
        }


@dataclass(frozen=True, slots=True)
class EffortReport:
    """The effort part of a response: what was decided before generation."""

    choice: EffortChoice
    budget: int
    decision: Decision | None = None

    def ended(self, choices: Sequence[Choice]) -> Json:
        """The `reasoning` object. With several choices, `closed_by` and `used_tokens` are lists."""
        used = [choice.num_reasoning_tokens for choice in choices]
        closed_by = [str(choice.ended.closed_by) for choice in choices]
        several = len(choices) > 1
        return {
            "effort": self.choice.effort,
            "source": self.choice.source,
            "budget_tokens": self.budget,
            "used_tokens": used if several else used[0],
            "closed_by": closed_by if several else closed_by[0],
            **({"auto": _auto(self.decision)} if self.decision else {}),
        }


def _auto(decision: Decision) -> Json:
    return {
        "by": decision.by,
        "reason": decision.reason,
        "router_tokens": decision.router_tokens,
    }


def usage(order: Order, choices: Sequence[Choice], bill: Bill | None = None) -> Json:
    """Token counts: each prompt once, the output of all choices.

    Args:
        order: of the engine. What was computed to choose an effort, and to see whether a thought
            could end, is part of the total, and not mentioned where it is nothing. Nor are tokens
            that a grammar left no choice about.
        choices: as many for each prompt, prompt by prompt.
        bill: what they cost; None where nobody wants to know.
    """
    completion = sum(choice.num_tokens for choice in choices)
    ends = [choice.ended for choice in choices]
    router_tokens = order.deciding_tokens(ends)
    jumped = sum(end.jumped_tokens for end in ends)
    return {
        "prompt_tokens": order.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": order.prompt_tokens + completion + router_tokens,
        "prompt_tokens_details": {"cached_tokens": order.cached_tokens(ends)},
        "completion_tokens_details": {
            "reasoning_tokens": sum(choice.num_reasoning_tokens for choice in choices),
            **({"jumped_tokens": jumped} if jumped else {}),
        },
        **({"router_tokens": router_tokens} if router_tokens else {}),
        **(_costs(bill) if bill else {}),
    }


def _costs(bill: Bill) -> Json:
    return {
        "cost": bill.cost.total,
        "energy_joules": bill.share.joules,
        "cost_details": {
            "currency": bill.currency,
            "electricity": bill.cost.electricity,
            "idle_electricity": bill.cost.idle_electricity,
            "hardware": bill.cost.hardware,
            "machine_seconds": bill.share.seconds,
            "energy_source": bill.energy_source,
            "baseline_joules": bill.share.baseline,
            "unknown_seconds": bill.share.unknown,
        },
    }


def chat_response(
    head: Head,
    choices: Sequence[Choice],
    readers: Sequence[CallReader | None],
    usage: Json,
    effort: EffortReport,
) -> Json:
    """The whole answer of a request that does not stream."""
    return head.object(
        "chat.completion",
        choices=[
            {
                "index": index,
                "message": _message(choice, reader),
                "logprobs": chat_logprobs(choice.logprobs),
                "finish_reason": finish_reason(choice, reader),
            }
            for index, (choice, reader) in enumerate(zip(choices, readers, strict=True))
        ],
        usage=usage,
        reasoning=effort.ended(choices),
    )


def finish_reason(choice: Choice, reader: CallReader | None) -> str:
    """Why a choice ended; its calls have been read."""
    reason = str(choice.ended.reason)
    return reason if reader is None else reader.finish_reason(reason)


def _message(choice: Choice, reader: CallReader | None) -> Json:
    content: str | None = choice.content
    if reader is not None:
        deltas = [*reader.feed(choice.calls), *reader.end()]
        no_calls = "".join(delta.get("content", "") for delta in deltas)
        content = reader.show(choice.content) + reader.rest() + no_calls
        content = content or (None if reader.calls else "")
    message: Json = {"role": "assistant", "content": content, "refusal": None}
    if reader is not None and reader.calls:
        message["tool_calls"] = reader.calls
    if choice.reasoning:
        message |= {"reasoning_content": choice.reasoning, "reasoning": choice.reasoning}
    return message


def chat_chunk(head: Head, index: int, delta: Json, **more: object) -> Json:
    """One chunk of a stream, for one choice."""
    choice: Json = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    return head.object("chat.completion.chunk", choices=[{**choice, **more}])


def chat_deltas(
    output: StepOutput, reader: CallReader | None = None
) -> list[tuple[Json, list[TokenLogprob]]]:
    """The deltas of one step, logprobs attached to the (last) content among them."""
    deltas: list[tuple[Json, list[TokenLogprob]]] = []
    for delta in output.deltas:
        if delta.channel is Channel.REASONING:
            deltas.append(({"reasoning_content": delta.text, "reasoning": delta.text}, []))
        elif delta.channel is Channel.TOOL_CALL:
            deltas += [(found, []) for found in reader.feed(delta.text)] if reader else []
        elif text := delta.text if reader is None else reader.show(delta.text):
            deltas.append(({"content": text}, []))
    if output.finish is not None and reader is not None:
        ended = reader.end()
        if rest := reader.rest():
            deltas.append(({"content": rest}, []))
        deltas += [(found, []) for found in ended]
    if output.logprobs:
        if not deltas or "content" not in deltas[-1][0]:
            deltas.append(({"content": ""}, []))
        deltas[-1][1].extend(output.logprobs)
    return deltas


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> Json | None:
    """OpenAI's logprobs object of chat completions, None where there are none."""
    if not logprobs:
        return None
    return {
        "content": [
            {
                **_token(logprob.token, logprob.logprob),
                "top_logprobs": [_token(token, value) for token, value in logprob.top],
            }
            for logprob in logprobs
        ],
        "refusal": None,
    }


def _token(token: bytes, logprob: float) -> Json:
    return {
        "token": token.decode(errors="replace"),
        "logprob": logprob,
        "bytes": list(token),
    }


def completion_choice(index: int, text: str, **more: object) -> Json:
    """A choice of a text completion, or of a chunk of its stream."""
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None, **more}


def completion_logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> Json | None:
    """OpenAI's older logprobs object; `offset` is the first token's place in the text."""
    if not logprobs:
        return None
    texts = [logprob.token.decode(errors="replace") for logprob in logprobs]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [logprob.logprob for logprob in logprobs],
        "top_logprobs": [
            {token.decode(errors="replace"): value for token, value in logprob.top}
            for logprob in logprobs
        ],
        "text_offset": offsets,
    }
