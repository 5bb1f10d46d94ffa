"""How many pods a type of machine can host, in every mode: one function for all who want to know (terway.md §7, R21).

A = network interfaces with the primary one, P = private IPv4 addresses of each, V = IPv6 addresses of each,
T = network interfaces and members of a trunk, E = interfaces that can do RDMA.
"""

import re
from enum import StrEnum, unique
from typing import assert_never

import msgspec

from services.eni_manager.core.model import InstanceType

PREFIX_SIZE = 16
"""Addresses of a /28, which takes the place of one."""
IPV6_PREFIX_PODS = 65_536
MOST_OF_RANGE = 4094
"""Of a node's pod range; three addresses of it (network, gateway, broadcast) are nobody's."""

RECOMMENDED_GENERATION = 5
RECOMMENDED_CPUS = 8
LEAST_SHARED = 11
"""A node may join only with more than this (terway.md §7)."""
LEAST_EXCLUSIVE = 6
HOST_NETWORK_PODS = 3
"""What the product adds to kubelet's maxPods for pods of the host network."""


@unique
class PodMode(StrEnum):
    """How pods get their addresses, as far as capacity differs."""

    SHARED = "shared"
    SHARED_DUAL = "shared-dual"
    EXCLUSIVE = "exclusive"
    EXCLUSIVE_DUAL = "exclusive-dual"
    TRUNK = "trunk"
    PREFER_TRUNK = "prefer-trunk"
    PREFIX = "prefix"
    PREFIX_IPV6 = "prefix-ipv6"
    ERDMA = "erdma"
    VPC_ROUTE = "vpc-route"


class Caps(msgspec.Struct, frozen=True):
    """What the configuration makes of A: `eni_cap_ratio`, `eni_cap_shift`, `max_eni` (0: no limit)."""

    ratio: float = 1.0
    shift: int = 0
    max_eni: int = 0
    pod_mask: int = 24
    """Length of the mask of a node's pod range, in mode vpc-route; kube-controller-manager's own default."""

    def enis(self, adapters: int) -> int:
        """ENIs for pods. Never more than the machine takes."""
        most = min(int(adapters * self.ratio) + self.shift, adapters) - 1
        return max(0, min(most, self.max_eni) if self.max_eni else most)


UNCAPPED = Caps()


class Capacity(msgspec.Struct, frozen=True):
    """The most pods with an address of their own; `formula` with the numbers in it, or why there are none."""

    mode: PodMode
    pods: int
    formula: str


def capacity(kind: InstanceType, mode: PodMode, caps: Caps = UNCAPPED) -> Capacity:
    """What `kind` can host in `mode`."""
    pods, formula = _count(kind, mode, caps)
    return Capacity(mode, max(0, pods), formula)


def _count(kind: InstanceType, mode: PodMode, caps: Caps) -> tuple[int, str]:
    enis, each, six = caps.enis(kind.enis), kind.ipv4_per_eni, kind.ipv6_per_eni
    match mode:
        case PodMode.SHARED:
            return enis * each, f"{enis} ENIs beside the primary one × {each} addresses"
        case PodMode.SHARED_DUAL:
            if six != each:
                return 0, f"no dual stack: an ENI has {each} IPv4 and {six} IPv6 addresses, which must be as many"
            return enis * each, f"{enis} ENIs beside the primary one × {each} address pairs"
        case PodMode.EXCLUSIVE:
            return enis, f"{enis} ENIs beside the primary one"
        case PodMode.EXCLUSIVE_DUAL:
            return (enis, f"{enis} ENIs beside the primary one") if six else (0, "its ENIs have no IPv6 addresses")
        case PodMode.TRUNK | PodMode.PREFER_TRUNK:
            if not kind.trunk:
                return 0, "it has no trunk ENIs"
            less, what = (2, "the primary and the trunk") if mode is PodMode.PREFER_TRUNK else (kind.enis, "ENIs")
            return kind.eni_total - less, f"{kind.eni_total} ENIs and members - {less} ({what})"
        case PodMode.PREFIX:
            return enis * (each - 1) * PREFIX_SIZE, f"{enis} ENIs × {each - 1} prefixes × {PREFIX_SIZE} addresses"
        case PodMode.PREFIX_IPV6:
            return (IPV6_PREFIX_PODS, "a /80 has more than enough") if six else (0, "its ENIs have no IPv6 addresses")
        case PodMode.ERDMA:
            nics = erdma_enis(kind)
            return nics * each, f"{nics} ENIs with RDMA × {each} addresses; they are not there for other pods"
        case PodMode.VPC_ROUTE:
            usable = max(0, min(2 ** (32 - caps.pod_mask) - 3, MOST_OF_RANGE))
            return usable, f"addresses of a pod range /{caps.pod_mask}, whatever the type"
        case _:
            assert_never(mode)


def dual_lacks(kind: InstanceType, *, exclusive: bool = False) -> str:
    """Why the type's pods cannot have pairs of addresses, in words; empty: they can."""
    found = capacity(kind, PodMode.EXCLUSIVE_DUAL if exclusive else PodMode.SHARED_DUAL)
    single = capacity(kind, PodMode.EXCLUSIVE if exclusive else PodMode.SHARED)
    return "" if found.pods or not single.pods else f"{kind.name}: {found.formula}"


def erdma_enis(kind: InstanceType) -> int:
    """Interfaces that are set aside for RDMA."""
    if kind.enis <= 2:
        return 0
    return min(2 if kind.enis >= 8 else 1, kind.eri)


def shortcomings(kind: InstanceType, mode: PodMode = PodMode.SHARED) -> list[str]:
    """Why this type is below what is recommended for nodes (R10), a sentence each; empty: it is not."""
    found = []
    of = generation(kind.name)
    if of is not None and of < RECOMMENDED_GENERATION:
        found.append(
            f"{kind.name} is of generation {of}; {RECOMMENDED_GENERATION} or later is recommended, for older ones take "
            "fewer ENIs and addresses"
        )
    if kind.cpus and kind.cpus < RECOMMENDED_CPUS:
        found.append(
            f"{kind.name} has {kind.cpus} vCPUs; {RECOMMENDED_CPUS} or more are recommended, for smaller ones take "
            f"fewer ENIs: {kind.enis} with {kind.ipv4_per_eni} addresses each"
        )
    exclusive = mode in (PodMode.EXCLUSIVE, PodMode.EXCLUSIVE_DUAL)
    pods, least = capacity(kind, mode).pods, LEAST_EXCLUSIVE if exclusive else LEAST_SHARED
    if pods <= least:
        found.append(f"{kind.name} can host {pods} pods in mode {mode}; a node should host more than {least}")
    if (kind.enis, kind.ipv4_per_eni) == (2, 2):
        found.append("types this small must be stopped to attach an ENI, so that their pods get no addresses")
    return found


def generation(name: str) -> int | None:
    """6 of `ecs.g6.2xlarge`, 2 of `ecs.sn2ne.large`; None: the name does not tell."""
    found = re.match(r"ecs\.[a-z]+(\d+)", name)
    return int(found[1]) if found else None
