"""What is said of an object of Calico's, and of all of them together."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Outcome = Literal["same", "replaced", "differs"]
"""`same`: traffic is judged as before. `replaced`: something else of ours does it, or nobody needs it any more; no
packet is judged otherwise. `differs`: something is, and somebody should look."""

_GRAVITY: dict[Outcome, int] = {"same": 0, "replaced": 1, "differs": 2}


class Finding(msgspec.Struct, frozen=True):
    """`field` is a path such as `spec.bpfEnabled`; empty: the object as a whole."""

    outcome: Outcome
    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.field}: {self.why}" if self.field else self.why


class Judged(msgspec.Struct, frozen=True):
    """One object; `place` says in which file it stands, empty when a cluster was read."""

    kind: str
    namespace: str
    name: str
    outcome: Outcome
    findings: tuple[Finding, ...] = ()
    place: str = ""

    @property
    def who(self) -> str:
        """Kind and name, as people write them."""
        return f"{self.kind} " + "/".join(part for part in (self.namespace, self.name) if part)


class Written(msgspec.Struct, frozen=True):
    """An object as it was written or stored."""

    raw: dict[str, Any]
    place: str = ""

    @property
    def kind(self) -> str:
        """As it says."""
        return str(self.raw.get("kind", ""))

    @property
    def group(self) -> str:
        """Of its API: `projectcalico.org` for both ways to read Calico's, empty for the core one."""
        group, slash, _ = str(self.raw.get("apiVersion", "")).partition("/")
        return group.removeprefix("crd.") if slash else ""

    @property
    def is_custom(self) -> bool:
        """Read as Calico stores it, not as its client shows it."""
        return str(self.raw.get("apiVersion", "")).startswith("crd.")

    @property
    def spec(self) -> dict[str, Any]:
        """Empty where there is none."""
        return _map(self.raw.get("spec"))

    @property
    def metadata(self) -> dict[str, Any]:
        """Empty where there is none."""
        return _map(self.raw.get("metadata"))

    def judged(self, findings: Iterable[Finding]) -> Judged:
        """With the gravest outcome of its findings."""
        found = tuple(findings)
        outcome: Outcome = "same"
        for finding in found:
            outcome = max(outcome, finding.outcome, key=_GRAVITY.__getitem__)
        meta = self.metadata
        namespace, name = str(meta.get("namespace") or ""), str(meta.get("name") or "")
        return Judged(self.kind, namespace, name, outcome, found, self.place)


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def inner(value: Any, *path: str) -> dict[str, Any]:
    """The object at the end of a path of fields; empty where there is none."""
    for name in path:
        value = _map(value).get(name)
    return _map(value)


def listed(value: Any, name: str) -> list[dict[str, Any]]:
    """The objects in a list that is a field; whatever else is in it is passed over."""
    found = _map(value).get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


class Report(msgspec.Struct, frozen=True):
    """`configuration` is what section `policy` needs for the rest to be as said, by node where nodes differ."""

    calico: str
    profile: str
    configuration: dict[str, Any]
    nodes: dict[str, dict[str, Any]]
    objects: tuple[Judged, ...]
    bookkeeping: dict[str, int]
    """Calico's own notes (addresses, status) by kind: nothing to move."""

    @property
    def differs(self) -> bool:
        """Whether anything does."""
        return any(judged.outcome == "differs" for judged in self.objects)
