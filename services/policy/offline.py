"""Policies without a cluster: manifests in, the calculation's messages, matrix and explanations out.

For reviews and CI of policy repositories. What a manifest says is taken as `calicoctl` or `kubectl` would store it:
objects of `projectcalico.org/v3` pass Calico's client (checked, completed, named), those of `crd.projectcalico.org/v1`
are taken as written. Kinds that have nothing to do with policies are passed over.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from services.policy.core import objects, v1
from services.policy.core.convert import kubernetes
from services.policy.core.convert.client import stored
from services.policy.core.graph import Graph
from services.policy.core.intake import Intake
from services.policy.core.messages import Message
from services.policy.core.overview import Overview
from services.policy.core.problems import Invalid, place
from services.policy.core.profiles import Compat
from services.policy.manifests import documents

NOWHERE = "unscheduled"
"""The node of pods that no manifest puts on one."""


class Flaw(msgspec.Struct, frozen=True):
    """Input that is not as it should be: where it stands, and what became of it."""

    file: str
    document: int
    object: str
    field: str
    reason: str
    effect: str

    def __str__(self) -> str:
        what = f"{self.object}: " if self.object else ""
        where = f"{self.field}: " if self.field else ""
        return f"{self.file} document {self.document}: {what}{where}{self.reason} ({self.effect})"

    @property
    def is_loss(self) -> bool:
        """Whether something that was written does not count."""
        return self.effect != "noted"


class _Origin(msgspec.Struct, frozen=True):
    """Where something was written; `converted`: its rules are not those of the calculation."""

    file: str
    document: int
    object: str
    converted: bool = False


class Manifests:
    """Everything that was read, as v1 keys and values, and all that is wrong with it."""

    def __init__(self, compat: Compat) -> None:
        self.compat = compat
        self.flaws: list[Flaw] = []
        self.values: dict[v1.Key, v1.Value] = {}
        self._intake = Intake(compat)
        self._origin: dict[v1.Key, _Origin] = {}
        if compat.profile_resources:
            self._take(kubernetes.DEFAULT_ALLOW, _Origin("", 0, ""))

    def read(self, paths: Iterable[Path]) -> None:
        """Files, and folders with all of their manifests."""
        for document in documents(paths):
            if document.trouble:
                self._flaw(_Origin(document.file, document.number, ""), "", document.trouble, "dropped")
            else:
                self._read_object(document.raw, document.file, document.number)
        self._check()

    def overview(self, only: Iterable[str] | None = None) -> Overview:
        """The whole cluster, judged."""
        return Overview(self.values.items(), self.compat, only=only)

    def messages(self, node: str | None) -> list[Message]:
        """What a node is told; without one, what a node is told that has all the pods."""
        graph = Graph(node, self.compat)
        for key, value in self.values.items():
            graph.update(key, value)
        graph.in_sync()
        return graph.flush()

    def _read_object(self, raw: Any, file: str, document: int) -> None:
        if not isinstance(raw, dict) or "kind" not in raw:
            self._flaw(_Origin(file, document, ""), "kind", "no object of Kubernetes", "dropped")
            return
        kind = objects.kind_of(raw)
        origin = _Origin(file, document, _name(raw), kind is objects.KubePolicy)
        if kind is None:
            if (reason := _mistaken(raw)) is not None:
                self._flaw(origin, "kind", reason, "dropped")
            return
        try:
            written = objects.read(raw, kind)
            if str(raw["apiVersion"]).startswith("projectcalico.org/"):
                written = stored(written, self.compat)
        except Invalid as error:
            self._flaw(origin, error.field, error.reason, "dropped")
            return
        self._take(self._placed(written), origin)

    def _placed(self, written: objects.Object) -> objects.Object:
        """Namespaces default, and a pod of a manifest is on some node."""
        meta = written.metadata
        if not meta.namespace and isinstance(written, objects.NAMESPACED):
            meta = msgspec.structs.replace(meta, namespace="default")
            written = msgspec.structs.replace(written, metadata=meta)
        if isinstance(written, objects.Pod) and not written.spec.node_name:
            spec = msgspec.structs.replace(written.spec, node_name=NOWHERE)
            written = msgspec.structs.replace(written, spec=spec)
        return written

    def _flaw(self, origin: _Origin, field: str, reason: str, effect: str) -> None:
        self.flaws.append(Flaw(origin.file, origin.document, origin.object, field, reason, effect))

    def _take(self, written: objects.Object, origin: _Origin) -> None:
        updates = self._intake.apply(written)
        for problems in self._intake.problems.values():
            for problem in problems:
                self._flaw(origin, problem.field, problem.reason, problem.effect)
        self._intake.problems.clear()
        for update in updates:
            if update.value is None:
                self.values.pop(update.key, None)
            else:
                self.values[update.key] = update.value
                if (before := self._origin.get(update.key)) not in (None, origin):
                    again = f"written again in {origin.file} document {origin.document}, and that counts"
                    self._flaw(before, "metadata.name", again, "replaced")
                self._origin[update.key] = origin
        if isinstance(written, objects.Pod) and not any(isinstance(key, v1.WorkloadKey) for key, _, _ in updates):
            reason = "is on its host's network" if written.spec.host_network else "has no address"
            self._flaw(origin, "status.podIP", f"{reason}: no policy selects it", "noted")

    def _check(self) -> None:
        """What the filter in front of the calculation holds back."""
        graph = Graph(None, self.compat)
        for key, value in self.values.items():
            graph.update(key, value)
            if (error := graph.invalid.get(key)) is not None:
                origin = self._origin[key]
                self._flaw(origin, place(error, converted=origin.converted), error.reason, "dropped")


_POLICY_GROUPS = ("projectcalico.org", "networking.k8s.io", "policy.networking.k8s.io")
_DECIDES = frozenset(kind for group, kind in objects.KINDS if group in _POLICY_GROUPS)
_DECIDES_NOTHING = re.compile(
    r"Ingress|IngressClass|IPAddress|ServiceCIDR|IPAM\w*|IPPool|IPReservation|BlockAffinity|BGP\w+|ClusterInformation|"
    r"CalicoNodeStatus|FelixConfiguration|KubeControllersConfiguration|Staged\w+"
)


def _mistaken(raw: dict[str, Any]) -> str | None:
    """Why an object of an unknown kind looks as if it should have been a policy; None: it does not."""
    version, kind = str(raw.get("apiVersion", "")), str(raw["kind"])
    group = version.partition("/")[0].removeprefix("crd.")
    if kind in _DECIDES:
        return f"there is no {kind} in {version or 'no apiVersion'!r}"
    if group in _POLICY_GROUPS and not _DECIDES_NOTHING.fullmatch(kind):
        return f"there is no {kind} in {version!r}"
    return None


def _name(raw: Any) -> str:
    meta = raw.get("metadata")
    parts = (meta.get("namespace"), meta.get("name")) if isinstance(meta, dict) else ()
    return f"{raw['kind']} " + "/".join(str(part) for part in parts if part)
