"""Exceptions to HTTP: one table, resolved along the class's ancestry, in OpenAI's error body."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from local_worker import errors

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

log = logging.getLogger(__name__)

STATUS: dict[type[Exception], tuple[int, str]] = {
    errors.RequestError: (400, "invalid_request_error"),
    errors.UnknownModelError: (404, "not_found_error"),
    errors.UnauthorizedError: (401, "authentication_error"),
    errors.ForbiddenError: (403, "permission_error"),
    errors.TooLargeError: (413, "invalid_request_error"),
    errors.UnavailableError: (503, "service_unavailable_error"),
    errors.QueueFullError: (429, "rate_limit_error"),
    errors.EngineError: (500, "server_error"),
}
"""Exception class -> (HTTP status, OpenAI error type)."""


MAX_MESSAGE_CHARACTERS = 1000


def status_of(error: Exception) -> tuple[int, str]:
    """Status and type of the nearest ancestor in the table; anything unknown is a 500."""
    for ancestor in type(error).__mro__:
        if ancestor in STATUS:
            return STATUS[ancestor]
    return 500, "server_error"


def error_body(error: Exception) -> dict[str, Any]:
    """The exception as OpenAI's error object. An unknown one keeps its details to the log."""
    _, kind = status_of(error)
    known = isinstance(error, errors.LocalWorkerError)
    param = getattr(error, "param", None)
    return {
        "error": {
            "message": _encodable(str(error))
            if known
            else "internal error; the server's log has the details",
            "type": kind,
            "param": None if param is None else _encodable(param),
            "code": getattr(error, "code", None) if known else "internal_error",
        }
    }


def _encodable(text: str) -> str:
    """A message may quote what a client sent: of any length, and not always valid Unicode."""
    if len(text) > MAX_MESSAGE_CHARACTERS:
        half = MAX_MESSAGE_CHARACTERS // 2
        text = f"{text[:half]} [...] {text[-half:]}"
    return text.encode(errors="replace").decode()


def error_response(error: Exception) -> JSONResponse:
    """The whole response, `Retry-After` included where waiting may help."""
    status, _ = status_of(error)
    headers = {}
    if isinstance(error, errors.UnavailableError):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status, headers)


def log_unexpected(error: Exception) -> None:
    """An error that is not of this project's tree is a defect: the log gets all of it."""
    if not isinstance(error, errors.LocalWorkerError):
        log.error("unexpected error in a request", exc_info=error)


def install(app: FastAPI) -> None:
    """Every error of this app, expected or not, leaves it in OpenAI's shape."""

    async def expected(_: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        body = {"message": error.detail, "type": "invalid_request_error", "param": None}
        return JSONResponse(
            {"error": {**body, "code": str(error.status_code)}}, error.status_code, error.headers
        )

    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        log_unexpected(error)
        return error_response(error)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # it left in the middle of its body: nobody reads this

    app.add_exception_handler(errors.LocalWorkerError, expected)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)
