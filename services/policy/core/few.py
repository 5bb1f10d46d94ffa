"""Collections of which there are very many and most are small: a tuple while it is, a set from then on.

Nothing costs nothing and each element 8 bytes, where an empty set costs 216; both kinds are iterated, counted and asked
with `in` alike. Only to add and to remove one asks here, and keeps the answer.
"""

from collections.abc import Hashable
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

Few = tuple[T, ...] | set[T]

_MOST = 8
"""Elements of a tuple: to look through them all takes no longer than to hash."""


def joined(held: Few[T], one: T) -> Few[T]:
    """With an element; it may be among them already."""
    if isinstance(held, set):
        held.add(one)
        return held
    if one in held:
        return held
    return (*held, one) if len(held) < _MOST else {*held, one}


def without(held: Few[T], one: T) -> Few[T]:
    """Without an element that is among them. Half way down it is a tuple again, so that nothing flaps."""
    if isinstance(held, tuple):
        place = held.index(one)
        return held[:place] + held[place + 1 :]
    held.remove(one)
    return tuple(held) if len(held) <= _MOST // 2 else held
