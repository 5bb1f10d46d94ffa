"""What the CNI specification numbers and names: versions, error codes, and the one table from our errors to them."""

from enum import IntEnum
from typing import Final

from shared.errors import SuiteError

SUPPORTED: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST: Final = SUPPORTED[-1]
UNSTATED: Final = "0.1.0"
"""What a configuration without cniVersion speaks (CNI spec section 1)."""


class Code(IntEnum):
    """CNI error codes (spec section 5, libcni's constants, and from 100 on our own)."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    BAD_ENVIRONMENT = 4
    IO_FAILURE = 5
    UNDECODABLE = 6
    BAD_CONFIG = 7
    BAD_NETNS = 8
    TRY_LATER = 11
    NOT_AVAILABLE = 50
    NOT_AVAILABLE_LIMITED = 51
    DIFFERENCE = 100
    """CHECK found something that is not as ADD left it."""
    NOT_FOUND = 101
    CONFLICT = 102
    REFUSED = 103
    INTERNAL = 999


CODES: Final = {
    "invalid": Code.BAD_CONFIG,
    "not_found": Code.NOT_FOUND,
    "conflict": Code.CONFLICT,
    "refused": Code.REFUSED,
    "exhausted": Code.TRY_LATER,
    "unavailable": Code.TRY_LATER,
    "deadline_exceeded": Code.TRY_LATER,
    "internal": Code.INTERNAL,
}
"""The stable code of a SuiteError -> what the runtime is told."""


class CniError(Exception):
    """What the runtime is told went wrong: a code, one sentence, and details for people."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


def told(error: SuiteError) -> CniError:
    """A service's error as the runtime sees it."""
    return CniError(CODES.get(error.code, Code.INTERNAL), error.message)


def at_least(version: str, floor: str) -> bool:
    """Is a supported version the same as or newer than another supported one?"""
    return SUPPORTED.index(version) >= SUPPORTED.index(floor)
