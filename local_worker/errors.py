"""Every exception this project raises on purpose, in one tree.

    LocalWorkerError
      RequestError            the client sent something that cannot be served (HTTP 4xx)
        InvalidParameterError   a field is wrong: says which and what to do
        ContextLengthError      prompt (plus output) does not fit the context
        UnknownModelError       the request names a model that is not served
        UnauthorizedError       missing or wrong API key
        ForbiddenError          a web page of another origin, or a foreign host name
        TooLargeError           the body is over the size limit
        EffortNotEnforcedError  the effort self-test failed for this model
      UnavailableError        right now this cannot be served; trying again later may work
        QueueFullError          too many requests wait already
        DrainingError           the server is stopping
        EngineNotReadyError     the model is loading or being restarted
      EngineError             the engine failed while it worked on a request
        EngineDiedError         its process ended; the request may have to be sent again
          EngineGaveUpError       and running it again is not going to be tried
      StartupError            a command cannot go on: one line for the user and exit status 1
        ConfigError             an option or a config file is wrong
        CatalogError            models.yaml is wrong, or a name in it is unknown
        ModelFileError          a model file is missing, truncated, corrupt or of another format
        DoesNotFitError         the model needs more memory than there is
        DownloadError           weights could not be fetched or do not match their checksum
        EngineStartError        the engine could not load the model
        BenchError              a benchmark cannot go on: a server is missing, died or refused

`RequestError` carries the offending parameter; `api.errors` maps this tree to HTTP codes in one
table. `cli` prints a `StartupError` without a traceback.
"""

from __future__ import annotations


class LocalWorkerError(Exception):
    """Root of everything raised on purpose here."""


class RequestError(LocalWorkerError):
    """The request cannot be served as it is.

    Attributes:
        param: the request field at fault, as the client spelled it, or None.
        code: a short machine-readable word in the style of OpenAI's `error.code`.
    """

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidParameterError(RequestError):
    """A field has a value that cannot be used; the message says what would do."""

    code = "invalid_value"


class ContextLengthError(RequestError):
    """The prompt, or the prompt and the output asked for, exceed the context."""

    code = "context_length_exceeded"


class UnknownModelError(RequestError):
    """The model named in the request is not the one served here."""

    code = "model_not_found"


class UnauthorizedError(RequestError):
    """The API key is missing or wrong."""

    code = "invalid_api_key"


class ForbiddenError(RequestError):
    """The request comes from where none may come from."""

    code = "forbidden"


class TooLargeError(RequestError):
    """The request body is over the limit."""

    code = "request_too_large"


class EffortNotEnforcedError(RequestError):
    """The start-up self-test showed that budgets do not hold for this model."""

    code = "effort_not_enforced"


class UnavailableError(LocalWorkerError):
    """Cannot be served now; `retry_after` is a number of seconds worth waiting."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFullError(UnavailableError):
    """The waiting queue is at its limit."""

    code = "queue_full"


class DrainingError(UnavailableError):
    """The server was told to stop and takes no new requests."""

    code = "shutting_down"


class EngineNotReadyError(UnavailableError):
    """The model is not loaded (yet, or again)."""

    code = "engine_not_ready"


class EngineError(LocalWorkerError):
    """The engine failed on this request."""

    code = "engine_error"


class EngineDiedError(EngineError):
    """The engine process ended before the request was finished."""

    code = "engine_died"


class EngineGaveUpError(EngineDiedError):
    """The engine process ended too often under this request, or for good."""


class StartupError(LocalWorkerError):
    """A command cannot go on; the message is all that the user needs."""


class ConfigError(StartupError):
    """An option, environment value or config file is wrong."""


class CatalogError(StartupError):
    """The catalog is wrong, or does not have what was asked for."""


class ModelFileError(StartupError):
    """A model file is missing, truncated, corrupt or not of the expected format."""


class DoesNotFitError(StartupError):
    """The model does not fit this machine."""


class DownloadError(StartupError):
    """Weights could not be fetched or do not match what was expected."""


class EngineStartError(StartupError):
    """The engine could not be started."""


def first_of(error: BaseException) -> BaseException:
    """The first one of a group: the others follow from it. Any other error is itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class BenchError(StartupError):
    """A benchmark cannot go on: a server is missing, died, or does not speak OpenAI's API."""
