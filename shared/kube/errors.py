"""What the API server can answer, as errors of the suite.

    SuiteError ── ApiError
                  ├── ApiNotFound      404, also NotFound
                  ├── ApiConflict      409, also Conflict: it exists already, or somebody changed it first
                  ├── ApiExpired       410, also Conflict: that resourceVersion or continue token is too old
                  ├── ApiInvalid       400, 405, 406, 413, 415, 422, also Invalid
                  ├── ApiForbidden     401, 403, also Refused
                  ├── ApiTimeout       no answer in time, or 504, also DeadlineExceeded
                  └── ApiUnavailable   unreachable, 429, 5xx, or no Kubernetes answer at all, also Unavailable

So a caller may catch `NotFound` of shared.errors and need not know that Kubernetes was asked.
"""

from http import HTTPStatus

import msgspec

from shared.errors import Conflict, DeadlineExceeded, Internal, Invalid, NotFound, Refused, SuiteError, Unavailable


class ApiError(SuiteError):
    """No success. `status` is the HTTP status, 0 when no answer came; `reason` is Kubernetes' word for it."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.status = status
        self.reason = reason


class ApiNotFound(ApiError, NotFound):
    """404."""


class ApiConflict(ApiError, Conflict):
    """409; `reason` is AlreadyExists or Conflict."""


class ApiExpired(ApiError, Conflict):
    """410: start again from a fresh list."""


class ApiInvalid(ApiError, Invalid):
    """The server does not accept the request as it is."""


class ApiForbidden(ApiError, Refused):
    """The token is unknown (401), or may not do this (403)."""


class ApiTimeout(ApiError, DeadlineExceeded):
    """No answer in time; a write may have happened."""


class ApiUnavailable(ApiError, Unavailable):
    """Nobody there, overloaded, or the connection was cut."""


class ApiInternal(ApiError, Internal):
    """An answer outside of what Kubernetes documents."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: ApiInvalid,
    401: ApiForbidden,
    403: ApiForbidden,
    404: ApiNotFound,
    405: ApiInvalid,
    406: ApiInvalid,
    408: ApiTimeout,
    409: ApiConflict,
    410: ApiExpired,
    413: ApiInvalid,
    415: ApiInvalid,
    422: ApiInvalid,
    429: ApiUnavailable,
    504: ApiTimeout,
}


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float = 0


class Status(msgspec.Struct, rename="camel"):
    """Kubernetes' Status object: the body of every error, and of a watch's ERROR event."""

    code: int = 0
    reason: str | None = None
    message: str | None = None
    details: _Details | None = None


def from_status(status: Status, *, doing: str, http_status: int = 0, retry_after: float | None = None) -> ApiError:
    """The error that a Status stands for; `doing` says what was tried, as in `get pods web/a`."""
    code = status.code or http_status
    kind = _BY_STATUS.get(code) or (ApiUnavailable if code >= HTTPStatus.INTERNAL_SERVER_ERROR else ApiInternal)
    if status.details and status.details.retry_after_seconds:
        retry_after = status.details.retry_after_seconds
    said = status.message or status.reason or f"HTTP status {code}"
    return kind(f"{doing}: {said}", status=code, reason=status.reason or "", retry_after=retry_after)


def from_body(body: bytes, *, doing: str, http_status: int, retry_after: float | None = None) -> ApiError:
    """The error in an HTTP answer, also when a proxy in between wrote something else than a Status."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except msgspec.MsgspecError:
        text = body[:200].decode("utf-8", "replace").strip()
        status = Status(message=text or None)
    status.code = http_status
    return from_status(status, doing=doing, http_status=http_status, retry_after=retry_after)
