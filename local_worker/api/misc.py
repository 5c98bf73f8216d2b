"""The small routes: models, tokenize, detokenize, health, ready, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from local_worker.api import translate
from local_worker.api.jobs import tokenize_prompt
from local_worker.api.messages import messages_of
from local_worker.api.schemas import DetokenizeBody, TokenizeBody, parse
from local_worker.api.state import ApiState, state_of
from local_worker.errors import InvalidParameterError
from local_worker.reasoning.routing import AUTO
from local_worker.types import PromptSegment

if TYPE_CHECKING:
    from local_worker.reasoning.effort import EffortPolicy

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """The process lives; says nothing about the model."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """Whether a request sent now would be served as it should be."""
    state = state_of(request)
    model, engine = state.loaded, state.engine
    if model is None:
        status = "loading the model"
    elif not engine.ready:
        status = "restarting the engine"
    elif state.admission.draining:
        status = "shutting down"
    elif not model.ready:
        status = "effort self-test failed"
    else:
        status = "ready"
    body: dict[str, Any] = {"ready": status == "ready", "status": status}
    if model is not None and model.self_test is not None:
        test = model.self_test
        body |= {"model": model.name, "effort_self_test": test.problem or f"passed: {test.summary}"}
    headers = {} if status == "ready" else {"Retry-After": "1"}
    return JSONResponse(body, 200 if status == "ready" else 503, headers)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus exposition."""
    return Response(state_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The model that is served, and its LoRA adapters."""
    state = state_of(request)
    names = (None, *state.model.adapters)
    return {"object": "list", "data": [_model_object(state, name) for name in names]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """That model, by any of its names, or that adapter."""
    state = state_of(request)
    return _model_object(state, state.model.adapter_named(name))


def _model_object(state: ApiState, adapter: str | None) -> dict[str, Any]:
    model = state.model
    return {
        "id": adapter or model.name,
        "object": "model",
        "created": model.card.created,
        "owned_by": "local-worker",
        "parent": model.name if adapter else None,
        "aliases": [] if adapter else list(model.card.names[1:]),
        "max_model_len": model.max_model_len,
        "engine": state.engine.info.engine,
        **_efforts(model.policy),
    }


def _efforts(policy: EffortPolicy) -> dict[str, Any]:
    """Levels, and what each of them allows here."""
    if not policy.can_think:
        return {"reasoning_efforts": [], "reasoning_budgets": {}}
    most = policy.ceiling
    budgets = {k: v if most is None else min(v, most) for k, v in policy.ladder.items()}
    auto = [AUTO] if policy.auto else []
    return {"reasoning_efforts": [*policy.ladder, "max", *auto], "reasoning_budgets": budgets}


@router.post("/tokenize")
@router.post("/v1/tokenize")
async def tokenize(request: Request) -> dict[str, Any]:
    """Token ids of a text (`prompt` or `content`) or of rendered `messages`."""
    state = state_of(request)
    body = parse(TokenizeBody, await request.body())
    state.model.adapter_named(body.model)
    given = [name for name in ("prompt", "content", "messages") if getattr(body, name) is not None]
    if len(given) != 1:
        raise InvalidParameterError(
            "send exactly one of 'prompt', 'content' and 'messages'", param="prompt"
        )
    add_special = body.add_special_tokens if body.add_special is None else body.add_special
    if body.messages is not None:
        template = state.model.chat_template()
        segments = template.render(messages_of(body.messages))
        token_ids = await tokenize_prompt(state.engine, segments, "messages")
    else:
        text = body.prompt if body.prompt is not None else body.content or ""
        translate.check_text(text, given[0])
        token_ids = await tokenize_prompt(
            state.engine, [PromptSegment(text)], given[0], add_special=bool(add_special)
        )
    return {
        "tokens": token_ids,
        "count": len(token_ids),
        "max_model_len": state.model.max_model_len,
    }


@router.post("/detokenize")
@router.post("/v1/detokenize")
async def detokenize(request: Request) -> dict[str, str]:
    """The text of token ids, under vLLM's and llama-server's name for it."""
    state = state_of(request)
    body = parse(DetokenizeBody, await request.body())
    state.model.adapter_named(body.model)
    translate.check_token_ids(body.tokens, state.model.vocab_size, "tokens")
    text = await state.engine.detokenize(body.tokens)
    return {"prompt": text, "content": text}
