"""Both ways in which the API cuts a long list: by page number, or by a token that says where to go on."""

import base64
from collections.abc import Sequence
from typing import Any, TypeVar

from compose.lab.cloud.core.errors import CloudError, exclusive

T = TypeVar("T")


def numbered(
    items: Sequence[T], number: int | None, size: int | None, default: int
) -> tuple[Sequence[T], dict[str, Any]]:
    """One page, and the fields that describe it."""
    number, size = number or 1, size or default
    fields = {"TotalCount": len(items), "PageNumber": number, "PageSize": size}
    return items[(number - 1) * size : number * size], fields


def tokened(
    items: Sequence[T], token: str | None, most: int | None, default: int
) -> tuple[Sequence[T], dict[str, Any]]:
    """The next `most` items after `token`, and the token that follows; empty when that was all."""
    start, most = _position(token), most or default
    end = start + most
    fields = {"TotalCount": len(items), "NextToken": _token(end) if end < len(items) else ""}
    return items[start:end], fields


def either(
    items: Sequence[T],
    *,
    number: int | None,
    size: int | None,
    token: str | None,
    most: int | None,
    default: int,
) -> tuple[Sequence[T], dict[str, Any]]:
    """Whichever way the caller asked for; by number when it did not say."""
    if token is not None or most is not None:
        if number is not None or size is not None:
            raise exclusive("PageNumber", "NextToken")
        return tokened(items, token, most, default)
    return numbered(items, number, size, default)


def _token(position: int) -> str:
    return base64.urlsafe_b64encode(f"at:{position}".encode()).decode()


def _position(token: str | None) -> int:
    if not token:
        return 0
    try:
        word, _, position = base64.urlsafe_b64decode(token).decode().partition(":")
        if word != "at":
            raise ValueError(word)
        return int(position)
    except ValueError as e:
        raise CloudError("InvalidParameter.NextToken", "The specified NextToken is not valid.") from e
