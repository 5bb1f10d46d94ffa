"""May this node run a mode, and can it? Asked before anything is changed; the answers name what is missing.

gate       what the operator has allowed (`allowed_modes`)       the configuration
kernel     kinds of links, qdiscs and classifiers it knows       adapters/kernel.py tries them
instance   ENIs of the instance type                             the cloud
"""

from collections.abc import Collection, Mapping

import msgspec

from services.eni_manager.core.model import InstanceType
from shared.model import Mode

OPEN_MODES = (Mode.SHARED_VETH, Mode.VPC_ROUTE)
"""What needs nobody's permission; the others are off until an operator lists them."""


class Kinds(msgspec.Struct, frozen=True):
    """What a kernel knows, or what is wanted of it, by the kernel's names. `either`: any one of these will do."""

    links: tuple[str, ...] = ()
    qdiscs: tuple[str, ...] = ()
    classifiers: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    either: tuple["Kinds", ...] = ()

    @property
    def every_classifier(self) -> tuple[str, ...]:
        """Those that are needed, and those that might be."""
        return (*self.classifiers, *(kind for way in self.either for kind in way.classifiers))

    @property
    def every_action(self) -> tuple[str, ...]:
        """The same of actions."""
        return (*self.actions, *(kind for way in self.either for kind in way.actions))


NEEDS: Mapping[Mode, Kinds] = {
    Mode.SHARED_VETH: Kinds(links=("veth",), qdiscs=("tbf",)),
    Mode.VPC_ROUTE: Kinds(links=("veth",), qdiscs=("tbf",)),
    Mode.EXCLUSIVE_ENI: Kinds(
        links=("veth", "ifb"), qdiscs=("tbf", "ingress"), classifiers=("u32",), actions=("mirred",)
    ),
    Mode.SHARED_IPVLAN: Kinds(
        links=("ipvlan", "ifb"),
        qdiscs=("tbf", "clsact", "ingress"),
        classifiers=("u32",),
        actions=("mirred",),
        either=(Kinds(classifiers=("bpf",)), Kinds(actions=("tunnel_key", "skbedit"))),
    ),
}


def closed_gate(mode: Mode, allowed: Collection[Mode]) -> str:
    """Why the operator's configuration does not let the mode run; empty: it does."""
    if mode in allowed:
        return ""
    listed = ", ".join(sorted(allowed)) or "none"
    return f"{mode} is not among allowed_modes ({listed}); an operator who wants it on this cluster lists it there"


def kernel_lacks(mode: Mode, known: Kinds) -> list[str]:
    """What the kernel does not have of what the mode needs, one phrase each."""
    return _lacking(NEEDS[mode], known)


def _lacking(needs: Kinds, known: Kinds) -> list[str]:
    lacking = [f"link kind {kind}" for kind in needs.links if kind not in known.links]
    lacking += [f"tc qdisc {kind}" for kind in needs.qdiscs if kind not in known.qdiscs]
    lacking += [f"tc classifier {kind}" for kind in needs.classifiers if kind not in known.classifiers]
    lacking += [f"tc action {kind}" for kind in needs.actions if kind not in known.actions]
    ways = [_lacking(way, known) for way in needs.either]
    if ways and all(ways):
        lacking.append(", or else ".join(" and ".join(way) for way in ways))
    return lacking


def instance_lacks(mode: Mode, kind: InstanceType) -> list[str]:
    """What the instance type does not have of what the mode needs, one sentence each."""
    if mode is Mode.VPC_ROUTE:
        return []
    lacking = []
    if kind.enis < 2:
        lacking.append(f"instance type {kind.name} has no ENI besides the primary one, and mode {mode} needs one")
    elif kind.ipv4_per_eni < 1:
        lacking.append(f"instance type {kind.name} has no private address for pods on its ENIs")
    return lacking
