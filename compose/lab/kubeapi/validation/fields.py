"""What is wrong with an object, field by field, in the API server's words. No I/O.

A `Path` leads to a field; its `Problems` are the 422's causes: (field, reason, message).
"""

import json
from collections.abc import Iterable, Sequence

Cause = tuple[str, str, str]
Value = object


class Problems(list[Cause]):
    """The causes found so far, in order."""

    def at(self, *steps: str) -> "Path":
        """The path of a field, from the object's root."""
        return Path(self, ".".join(steps))


class Path:
    """A field's place, and the ways to complain about it."""

    def __init__(self, problems: Problems, text: str) -> None:
        self._problems = problems
        self._text = text

    def __truediv__(self, name: str) -> "Path":
        """A field within."""
        return Path(self._problems, f"{self._text}.{name}" if self._text else name)

    def __getitem__(self, index: int | str) -> "Path":
        """An element of a list, or the value of a map's key."""
        return Path(self._problems, f"{self._text}[{index}]")

    def required(self, detail: str = "") -> None:
        self._add("FieldValueRequired", "Required value", detail)

    def forbidden(self, detail: str) -> None:
        self._add("FieldValueForbidden", "Forbidden", detail)

    def invalid(self, value: Value, *details: str) -> None:
        """One complaint for each detail: none, when there is nothing to say."""
        for detail in details:
            self._add("FieldValueInvalid", f"Invalid value: {quoted(value)}", detail)

    def duplicate(self, value: Value) -> None:
        self._add("FieldValueDuplicate", f"Duplicate value: {quoted(value)}", "")

    def unsupported(self, value: Value, supported: Sequence[str]) -> None:
        choice = ", ".join(quoted(one) for one in supported)
        self._add("FieldValueNotSupported", f"Unsupported value: {quoted(value)}", f"supported values: {choice}")

    def too_long(self, limit: int) -> None:
        self._add("FieldValueTooLong", "Too long", f"may not be more than {limit} bytes")

    def too_many(self, count: int, limit: int) -> None:
        self._add("FieldValueTooMany", f"Too many: {count}", f"must have at most {limit} items")

    def one_of(self, value: str | None, supported: Sequence[str]) -> None:
        """A choice that must be made."""
        if not value:
            self.required()
        elif value not in supported:
            self.unsupported(value, supported)

    def unchanged(self, new: Value, old: Value) -> None:
        """A field that keeps its first value."""
        if new != old:
            self.invalid(new, "field is immutable")

    def _add(self, reason: str, what: str, detail: str) -> None:
        self._problems.append((self._text, reason, f"{what}: {detail}" if detail else what))


def quoted(value: Value) -> str:
    """A value as messages show it: Go's %q for text, JSON for what is composed."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def each(paths: Path, items: Iterable[dict[str, object]] | None) -> Iterable[tuple[Path, dict[str, object]]]:
    """The elements of a list field that may be missing, with their paths."""
    return ((paths[index], item) for index, item in enumerate(items or ()))
