"""Objects as the calculation reads them, out of the API server's JSON, at the least possible memory.

A mirror must remember of every object which one it was and in which state. What the object says, the calculation keeps
in its own shape, so the mirror's copy gives its content away when it is told, and only `metadata` stays.
"""

import sys
from collections.abc import Callable

import msgspec

from services.policy.core import objects
from services.policy.core.problems import Invalid


class Who(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Which object, in which state."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Head(msgspec.Struct):
    metadata: Who


class Seen(msgspec.Struct, gc=False):
    """An object as it came: its content can be taken once."""

    metadata: Who
    content: objects.Object | Invalid | None

    def take(self) -> objects.Object | Invalid | None:
        """The object, or why it is none; None when it was taken before."""
        content, self.content = self.content, None
        return content


def reader(kind: type[objects.Object]) -> Callable[[msgspec.Raw], Seen]:
    """Reads objects of a kind from their JSON. One without a name is a MsgspecError; all else is in `content`."""
    head, whole = msgspec.json.Decoder(_Head), msgspec.json.Decoder(kind)

    def read(raw: msgspec.Raw) -> Seen:
        try:
            written = whole.decode(raw)
            meta = written.metadata
            if meta.name:  # the same texts that the calculation will keep
                return Seen(Who(meta.name, sys.intern(meta.namespace), meta.uid, meta.resource_version), written)
        except msgspec.ValidationError:
            pass
        who = head.decode(raw).metadata
        who = msgspec.structs.replace(who, namespace=sys.intern(who.namespace))
        try:  # the slow way knows what a null means, and the field
            return Seen(who, objects.read(msgspec.json.decode(raw), kind))
        except Invalid as error:
            return Seen(who, error)

    return read
