"""Whose address waits for them: pods with a name that comes back (terway.md §3.1, F18)."""

from collections.abc import Collection, Iterable, Mapping

from shared.kube.objects import OwnerReference

RESERVATION = "k8s.aliyun.com/pod-ip-reservation"
"""The annotation by which a pod of any owner asks for it."""

STATEFUL_KINDS = frozenset({"statefulset"})
"""Owners that give a pod the name that it had, in lower case."""

_TRUE = frozenset({"1", "t", "true"})
_FALSE = frozenset({"", "0", "f", "false"})


def stateful_kinds(custom: Iterable[str]) -> frozenset[str]:
    """STATEFUL_KINDS and those of `custom_stateful_workload_kinds`."""
    return STATEFUL_KINDS | {kind.strip().lower() for kind in custom if kind.strip()}


def asks_for_it(annotations: Mapping[str, str]) -> tuple[bool, str]:
    """Whether the pod asks for it, and what is wrong with how it asks; the second is empty when nothing is."""
    text = annotations.get(RESERVATION, "").strip().lower()
    if text in _TRUE | _FALSE:
        return text in _TRUE, ""
    return False, f"{RESERVATION}: expected true or false, got {annotations[RESERVATION]!r}"


def is_stateful(owners: Iterable[OwnerReference], kinds: Collection[str]) -> bool:
    """Is the pod managed by one of `kinds`?"""
    return any(owner.kind.lower() in kinds for owner in owners if owner.controller is not False)
