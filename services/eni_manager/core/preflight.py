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

NOT_BUILT = frozenset({Mode.SHARED_IPVLAN})
"""Modes that no service here can run yet; whoever builds one takes it out."""


class Kinds(msgspec.Struct, frozen=True):
    """What a kernel knows, or what is wanted of it, by the kernel's names. `classifiers`: any one of them will do."""

    links: tuple[str, ...] = ()
    qdiscs: tuple[str, ...] = ()
    classifiers: tuple[str, ...] = ()


NEEDS: Mapping[Mode, Kinds] = {
    Mode.SHARED_VETH: Kinds(links=("veth",), qdiscs=("tbf",)),
    Mode.VPC_ROUTE: Kinds(links=("veth",), qdiscs=("tbf",)),
    Mode.EXCLUSIVE_ENI: Kinds(links=("veth", "ifb"), qdiscs=("tbf", "ingress"), classifiers=("u32",)),
    Mode.SHARED_IPVLAN: Kinds(links=("ipvlan",), qdiscs=("tbf", "clsact"), classifiers=("bpf", "u32")),
}


def closed_gate(mode: Mode, allowed: Collection[Mode]) -> str:
    """Why the operator's configuration does not let the mode run; empty: it does."""
    if mode in allowed:
        return ""
    listed = ", ".join(sorted(allowed)) or "none"
    return f"{mode} is not among allowed_modes ({listed}); an operator who wants it on this cluster lists it there"


def not_built(mode: Mode) -> str:
    """Why this version does not run the mode; empty: it does."""
    if mode not in NOT_BUILT:
        return ""
    built = " or ".join(sorted(set(Mode) - NOT_BUILT))
    return f"{mode} is not available in this version; set it to {built}, or leave it out"


def kernel_lacks(mode: Mode, known: Kinds) -> list[str]:
    """What the kernel does not have of what the mode needs, one phrase each."""
    needs = NEEDS[mode]
    lacking = [f"link kind {kind}" for kind in needs.links if kind not in known.links]
    lacking += [f"tc qdisc {kind}" for kind in needs.qdiscs if kind not in known.qdiscs]
    if needs.classifiers and not set(needs.classifiers) & set(known.classifiers):
        lacking.append(f"tc classifier {' or '.join(needs.classifiers)}")
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
