"""What etcd and the watch cache are to an API server: objects, one counter of versions, and a bounded past. No I/O.

Each write takes the next version and leaves one Change. Objects in here are never changed in place: a write puts a new
one, so that readers may keep what they were given.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from compose.lab.kubeapi.kinds import Collection

Json = dict[str, Any]
Name = tuple[str, str]
"""(namespace, name)."""


class Change(msgspec.Struct, frozen=True):
    """What one version brought. `old` is None for a new object, `new` None for a removed one."""

    version: int
    collection: Collection
    name: Name
    old: Json | None
    new: Json | None


class Expired(Exception):
    """That version lies before what is remembered; `oldest` is the first that can be asked for."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"history begins at version {oldest}")
        self.oldest = oldest


class Store:
    """Every object of every kind. `on_change` hears of each write after it has happened.

    At least `history` changes are remembered, at most twice as many.
    """

    def __init__(
        self, *, first_version: int = 1, history: int = 10_000, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.version = first_version
        self._objects: dict[Collection, dict[Name, Json]] = {}
        self._past: list[Change] = []
        self._history = history
        self._oldest = first_version
        self._on_change = on_change

    @property
    def oldest(self) -> int:
        """The oldest version from which every change since is still known."""
        return self._oldest

    def trial(self) -> "Store":
        """A copy that begins with what there is, and tells nobody."""
        copied = Store(first_version=self.version)
        copied._objects = {collection: dict(objects) for collection, objects in self._objects.items()}
        return copied

    def get(self, collection: Collection, name: Name) -> Json | None:
        """The object now."""
        return self._objects.get(collection, {}).get(name)

    def all(self, collection: Collection) -> dict[Name, Json]:
        """The collection now; for reading."""
        return self._objects.get(collection, {})

    def put(self, collection: Collection, name: Name, obj: Json) -> Json:
        """Write an object, new or not; returns it with its resourceVersion."""
        return self._write(collection, name, obj)

    def remove(self, collection: Collection, name: Name) -> Json:
        """Remove an object; returns its last state, under the version of its removal as a watch shows it."""
        old = self._objects[collection].pop(name)
        self.version += 1
        self._remember(Change(self.version, collection, name, old, None))
        return _at(old, self.version)

    def at(self, collection: Collection, version: int) -> dict[Name, Json]:
        """The collection as it was at a version; raises Expired when that cannot be known any more."""
        if version < self._oldest:
            raise Expired(self._oldest)
        then = dict(self.all(collection))
        for change in reversed(self._past):
            if change.version <= version:
                break
            if change.collection == collection:
                if change.old is None:
                    then.pop(change.name, None)
                else:
                    then[change.name] = change.old
        return then

    def since(self, version: int, limit: int) -> list[Change]:
        """Up to `limit` changes after a version, oldest first; raises Expired."""
        if version < self._oldest:
            raise Expired(self._oldest)
        first = version - self._oldest  # versions have no gaps
        return self._past[first : first + limit] if first >= 0 else []

    def compact(self, version: int | None = None) -> None:
        """Forget the past up to a version; without one, all of it."""
        version = self.version if version is None else min(version, self.version)
        if version > self._oldest:
            del self._past[: version - self._oldest]
            self._oldest = version

    def _write(self, collection: Collection, name: Name, obj: Json) -> Json:
        objects = self._objects.setdefault(collection, {})
        old = objects.get(name)
        self.version += 1
        objects[name] = new = _at(obj, self.version)
        self._remember(Change(self.version, collection, name, old, new))
        return new

    def _remember(self, change: Change) -> None:
        self._past.append(change)
        if len(self._past) > 2 * self._history:
            self.compact(self.version - self._history)
        self._on_change()


def _at(obj: Json, version: int) -> Json:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}
