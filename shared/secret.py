"""A value that must not be seen: it has no text form but `***`, wherever it is printed, logged, dumped or raised."""

from typing import Final

MASK: Final = "***"


class Secret:
    """Holds a string for the one place that needs it; only `reveal()` gives it back.

    Not a `str` on purpose: nothing can format, join or encode it by accident, and the RPC encoder refuses it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return f"Secret({MASK!r})" if self._value else "Secret('')"

    def __str__(self) -> str:
        return MASK if self._value else ""

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled")
