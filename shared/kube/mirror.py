"""A mirror of one kind of object: turns lists and watch events into changes. No I/O, no clock.

What a consumer sees is a sequence with these promises, whatever the network did in between:

- `Applied(obj)`: the object exists and looks like this now; only said when it differs from what was said before.
- `Deleted(obj)`: it is gone, `obj` is its last known state; only said of an object that was applied before.
- `Synced()`: everything that existed at one moment has been said, and what no longer existed has been deleted.
  Said once per complete list: nothing may be pruned before the first.
- A namesake with another UID is another object: the old one is deleted before the new one is applied.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

import msgspec

from shared.kube.errors import ApiError, ApiInternal, Status, from_status


class Version(Protocol):
    """Which object of a name it is, and in which state."""

    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def resource_version(self) -> str: ...


class Mirrored(Protocol):
    """What a mirror must know of what it keeps; `shared.kube.objects.Object` is one."""

    @property
    def metadata(self) -> Version: ...


T = TypeVar("T", bound=Mirrored)

Key: TypeAlias = tuple[str, str]
"""(namespace, name); the namespace is empty for what lives in none."""


@dataclass(frozen=True, slots=True)
class Applied(Generic[T]):
    """The object exists and looks like this."""

    obj: T


@dataclass(frozen=True, slots=True)
class Deleted(Generic[T]):
    """The object is gone; this is its last known state."""

    obj: T


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything that exists has been said."""


Change: TypeAlias = Applied[T] | Deleted[T] | Synced


class WatchEvent(msgspec.Struct, frozen=True):
    """One line of a watch; the object is decoded later, by type."""

    type: str
    object: msgspec.Raw


class _Name(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Named(msgspec.Struct, frozen=True):
    metadata: _Name


class Mirror(Generic[T]):
    """What exists, as far as we have heard. `objects` is for reading; only the methods change it.

    `resource_version` is where a watch would go on, empty when only a list can tell.
    `unreadable` says of which objects the server holds something that is no `kind`; the last readable state stays.
    `decode` reads an object from its JSON: by default as a `kind`.
    """

    def __init__(self, kind: type[T], *, decode: Callable[[msgspec.Raw], T] | None = None) -> None:
        self.objects: dict[Key, T] = {}
        self.unreadable: dict[Key, str] = {}
        self.resource_version = ""
        self._read = decode or msgspec.json.Decoder(kind).decode
        self._listed: set[Key] = set()

    # ---- a list

    def begin_list(self) -> None:
        """A list starts, perhaps again from its first page."""
        self._listed = set()

    def take_page(self, items: Iterable[msgspec.Raw]) -> Iterator[Change[T]]:
        """The objects of one page."""
        for item in items:
            name = _name_of(item)
            key = _key_of(name)
            self._listed.add(key)
            yield from self._apply(key, item)

    def end_list(self, resource_version: str) -> Iterator[Change[T]]:
        """The list is complete: whatever was not in it is gone."""
        gone = self.objects.keys() - self._listed
        for key in self.unreadable.keys() - self._listed:
            del self.unreadable[key]
        self._listed = set()
        self.resource_version = resource_version
        for key in sorted(gone):
            yield Deleted(self.objects.pop(key))
        yield Synced()

    def forget_version(self) -> None:
        """Only a list can tell what happened in the meantime; what we hold stays until then."""
        self.resource_version = ""

    # ---- a watch

    def take_event(self, event: WatchEvent) -> Iterator[Change[T]]:
        """One event of a watch. Raises the ApiError that an ERROR event carries."""
        match event.type:
            case "ADDED" | "MODIFIED":
                name = _name_of(event.object)
                yield from self._apply(_key_of(name), event.object)
            case "DELETED":
                name = _name_of(event.object)
                yield from self._delete(_key_of(name), event.object)
            case "BOOKMARK":
                name = _name_of(event.object)
            case "ERROR":
                raise _error_in(event.object)
            case other:
                raise ApiInternal(f"watch: an event of unknown type {other!r}")
        if name.resource_version:
            self.resource_version = name.resource_version

    # ---- one object

    def _apply(self, key: Key, item: msgspec.Raw) -> Iterator[Change[T]]:
        new = self._decode(key, item)
        if new is None:
            return
        old = self.objects.get(key)
        if old is not None:
            if old.metadata.resource_version == new.metadata.resource_version and old.metadata.uid == new.metadata.uid:
                return
            del self.objects[key]
            if old.metadata.uid != new.metadata.uid:
                yield Deleted(old)
        self.objects[key[0], new.metadata.name] = new  # under its own text, so that there are not two of them
        yield Applied(new)

    def _delete(self, key: Key, item: msgspec.Raw) -> Iterator[Change[T]]:
        last = self._decode(key, item)
        self.unreadable.pop(key, None)
        known = self.objects.pop(key, None)
        if known is not None:
            yield Deleted(last or known)

    def _decode(self, key: Key, item: msgspec.Raw) -> T | None:
        try:
            decoded = self._read(item)
        except (msgspec.MsgspecError, RecursionError) as error:
            self.unreadable[key] = str(error)
            return None
        self.unreadable.pop(key, None)
        return decoded


def _name_of(item: msgspec.Raw) -> _Name:
    try:
        return msgspec.json.decode(item, type=_Named).metadata
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ApiInternal(f"an object without a name: {error}") from error


def _key_of(name: _Name) -> Key:
    return sys.intern(name.namespace), name.name  # a namespace's name once, not once per object


def _error_in(item: msgspec.Raw) -> ApiError:
    try:
        status = msgspec.json.decode(item, type=Status)
    except (msgspec.MsgspecError, RecursionError) as error:
        return ApiInternal(f"watch: an ERROR event that cannot be read: {error}")
    return from_status(status, doing="watch")
