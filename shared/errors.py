"""The tree of errors that services show one another.

    SuiteError
    ├── Invalid           the caller's input is wrong; the message names field, value and way out
    ├── NotFound          what the call is about does not exist
    ├── Conflict          it exists, but belongs to somebody else or is in another state
    ├── Refused           understood, and will not be done here (mode, gate, preflight)
    ├── Exhausted         nothing left to give: addresses, ENIs, quota
    ├── Unavailable       a neighbour, the cloud or the API server cannot be reached now
    ├── DeadlineExceeded  the answer did not come in time; the effect may have happened
    └── Internal          a bug of ours

`code` is the stable name on the wire; the CNI gateway maps it to a CNI code in one table.
`retry_after` is in seconds; None says that trying again cannot help.
"""

from typing import ClassVar

import msgspec


class Failure(msgspec.Struct, frozen=True):
    """An error as it travels in an RPC answer."""

    code: str
    message: str
    retry_after: float | None = None


class SuiteError(Exception):
    """Whatever a service says went wrong; anything else that reaches a handler's caller is a bug."""

    code: ClassVar[str] = "internal"
    default_retry_after: ClassVar[float | None] = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = self.default_retry_after if retry_after is None else retry_after

    def to_failure(self) -> Failure:
        """This error as an RPC answer carries it."""
        return Failure(code=self.code, message=self.message, retry_after=self.retry_after)


class Invalid(SuiteError):
    """The caller's input is wrong."""

    code = "invalid"


class NotFound(SuiteError):
    """What the call is about does not exist."""

    code = "not_found"


class Conflict(SuiteError):
    """It exists, but belongs to somebody else or is in another state."""

    code = "conflict"


class Refused(SuiteError):
    """Understood, and will not be done here."""

    code = "refused"


class Exhausted(SuiteError):
    """Nothing left to give; the message says of what and why."""

    code = "exhausted"
    default_retry_after = 5.0


class Unavailable(SuiteError):
    """A neighbour, the cloud or the API server cannot be reached now."""

    code = "unavailable"
    default_retry_after = 1.0


class DeadlineExceeded(SuiteError):
    """The answer did not come in time; the effect may have happened."""

    code = "deadline_exceeded"
    default_retry_after = 1.0


class Internal(SuiteError):
    """A bug of ours."""

    code = "internal"


BY_CODE: dict[str, type[SuiteError]] = {
    kind.code: kind
    for kind in (Invalid, NotFound, Conflict, Refused, Exhausted, Unavailable, DeadlineExceeded, Internal)
}


def from_failure(failure: Failure) -> SuiteError:
    """The exception that stands for an RPC error; a code from a newer neighbour becomes Internal."""
    kind = BY_CODE.get(failure.code, Internal)
    return kind(failure.message, retry_after=failure.retry_after)
