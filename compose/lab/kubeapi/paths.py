"""What a URL path points at. No I/O."""

import msgspec

from compose.lab.kubeapi.kinds import Kind, Kinds
from compose.lab.kubeapi.status import no_such_resource
from compose.lab.kubeapi.store import Name


class Target(msgspec.Struct, frozen=True):
    """A collection (no name), an object, or a subresource of one."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Name:
        """The object's place in the store."""
        return (self.namespace, self.name)

    @property
    def part(self) -> str:
        """The field that a write to this subresource is confined to; empty for the object itself."""
        return "status" if self.subresource == "status" else ""


def target_of(path: str, kinds: Kinds) -> Target:
    """Read `/api/v1/…` or `/apis/<group>/<version>/…`; a 404 when nothing is served there."""
    match path.strip("/").split("/"):
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            raise no_such_resource()
    namespace = ""
    inside = rest[2:] and kinds.find(group, version, rest[2])
    if rest[0] == "namespaces" and inside and inside.namespaced:
        namespace, rest = rest[1], rest[2:]
    kind = kinds.find(group, version, rest[0])
    name, subresource, *more = [*rest[1:], "", ""]
    known = ("", *(("status",) if kind is not None and kind.has_status else ()), *(kind.subresources if kind else ()))
    if kind is None or subresource not in known or any(more) or (name and kind.namespaced and not namespace):
        raise no_such_resource()
    return Target(kind=kind, namespace=namespace, name=name, subresource=subresource)
