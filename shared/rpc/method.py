"""A typed RPC method: one name, one Struct in, one Struct out."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

Params = TypeVar("Params", bound=msgspec.Struct)
Result = TypeVar("Result", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Method(Generic[Params, Result]):
    """What client and server agree on. `deadline_s` bounds a call whose caller states no other."""

    name: str
    params: type[Params]
    result: type[Result]
    deadline_s: float = 5.0
