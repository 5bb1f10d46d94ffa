"""One watch: what a watcher is told about each change in the store, and the lines that say so. No I/O."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from compose.lab.kubeapi.kinds import Kind
from compose.lab.kubeapi.selectors import Matches
from compose.lab.kubeapi.status import Refusal, expired
from compose.lab.kubeapi.store import Change, Expired, Store

Json = dict[str, Any]

Show = Callable[[Json], Json]
"""How an object is shown to the watcher: as it is, or as a table's row."""

BATCH = 500
"""Changes looked at in one go."""


class Watch:
    """A watcher's place in the store's history. A slow one falls behind and expires; nothing is queued for it."""

    def __init__(self, store: Store, kind: Kind, matches: Matches, show: Show, version: int) -> None:
        self._store = store
        self._kind = kind
        self._matches = matches
        self._show = show
        self.version = version
        """Everything up to here has been told."""

    @classmethod
    def from_now(cls, store: Store, kind: Kind, matches: Matches, show: Show) -> tuple["Watch", bytes]:
        """A watch that begins with everything there is, told as added."""
        watch = cls(store, kind, matches, show, store.version)
        found = sorted(store.all(kind.collection).items())
        return watch, b"".join(watch._line("ADDED", obj) for _, obj in found if matches(obj))

    def news(self) -> bytes:
        """Lines for what has happened since; empty when there is nothing to tell. Raises a 410 Refusal."""
        told: list[bytes] = []
        while True:
            try:
                changes = self._store.since(self.version, BATCH)
            except Expired as error:
                raise expired(self.version, error.oldest) from error
            if not changes:
                return b"".join(told)
            for change in changes:
                told.extend(self._tell(change))
            self.version = changes[-1].version
            if told:
                return b"".join(told)

    def bookmark(self, *, initial_end: bool = False) -> bytes:
        """A line that says how far this watcher has come."""
        metadata: Json = {"resourceVersion": str(self.version), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": metadata}
        return self._line("BOOKMARK", obj)

    def _tell(self, change: Change) -> Iterator[bytes]:
        if change.collection != self._kind.collection:
            return
        was = change.old is not None and self._matches(change.old)
        now = change.new is not None and self._matches(change.new)
        if now and change.new is not None:
            yield self._line("MODIFIED" if was else "ADDED", change.new)
        elif was and change.old is not None:
            # Gone, or gone out of the selection: its last state in it, under the version at which it went.
            gone = change.old | {"metadata": change.old["metadata"] | {"resourceVersion": str(change.version)}}
            yield self._line("DELETED", gone)

    def _line(self, kind: str, obj: Json) -> bytes:
        if obj["apiVersion"] != self._kind.api_version:
            obj = obj | {"apiVersion": self._kind.api_version}
        return msgspec.json.encode({"type": kind, "object": self._show(obj)}) + b"\n"


def error_line(refusal: Refusal) -> bytes:
    """How a watch that has begun ends in an error."""
    return msgspec.json.encode({"type": "ERROR", "object": refusal.body()}) + b"\n"
