"""Calico's kinds that are not policies: what becomes of address pools, routes, clusters' settings and the like."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from services.policy.core.migrate.findings import Finding, Written, inner

BOOKKEEPING: Final = re.compile(r"IPAM\w+|BlockAffinity|CalicoNodeStatus|WorkloadEndpoint|Node|IPReservation")
"""Kinds that Calico writes for itself."""

ANNOTATIONS: Final[Mapping[str, str]] = {
    "cni.projectcalico.org/ipv4pools": "addresses come from the node's vSwitches (eni_conf, PodENI), not from pools",
    "cni.projectcalico.org/ipv6pools": "addresses come from the node's vSwitches (eni_conf, PodENI), not from pools",
    "cni.projectcalico.org/ipAddrs": "no address can be asked for: a StatefulSet's pods get theirs back",
    "cni.projectcalico.org/ipAddrsNoIpam": "no address can be asked for: a StatefulSet's pods get theirs back",
    "cni.projectcalico.org/floatingIPs": "there are no floating addresses: use an EIP or a load balancer",
    "cni.projectcalico.org/hwAddr": "the MAC address is the ENI's",
    "cni.projectcalico.org/allowedSourcePrefixes": "a pod sends from its own addresses only",
}
"""Of pods and namespaces."""


def other(written: Written) -> Iterator[Finding]:
    """What is to be said of an object that decides nothing about policies."""
    judge = _KINDS.get(written.kind)
    if judge is None:
        yield Finding("differs", "kind", "not known here: see what it did for you")
    else:
        yield from judge(written.spec)


def annotated(written: Written) -> Iterator[Finding]:
    """What is to be said of a pod or namespace."""
    annotations = written.metadata.get("annotations")
    for name in annotations if isinstance(annotations, dict) else ():
        if name in ANNOTATIONS:
            yield Finding("differs", f"metadata.annotations[{name}]", ANNOTATIONS[name])


def _pool(spec: dict[str, Any]) -> Iterator[Finding]:
    yield Finding("replaced", "spec.cidr", f"no pod gets an address of {spec.get('cidr')}: vSwitches give them theirs")
    if spec.get("natOutgoing"):
        why = (
            "pods reach what is outside the VPC with their own addresses, by a NAT gateway or an EIP; in mode "
            "vpc-route their node masquerades (eni_manager.no_masquerade)"
        )
        yield Finding("differs", "spec.natOutgoing", why)
    for field in ("ipipMode", "vxlanMode"):
        if str(spec.get(field) or "Never") != "Never":
            yield Finding("replaced", f"spec.{field}", "there is no overlay: the VPC routes pods' addresses")
    for field in ("nodeSelector", "namespaceSelector"):
        if str(spec.get(field) or "all()") != "all()":
            yield Finding("differs", f"spec.{field}", "which vSwitch a node uses is eni_conf's, by the zone")


def _bgp(spec: dict[str, Any]) -> Iterator[Finding]:
    for field in ("serviceClusterIPs", "serviceExternalIPs", "serviceLoadBalancerIPs"):
        if spec.get(field):
            yield Finding("differs", f"spec.{field}", "nothing is announced by BGP: use a load balancer")
    yield Finding("replaced", "", "pods' addresses are the VPC's own: nothing announces routes to them")


def _peer(spec: dict[str, Any]) -> Iterator[Finding]:
    yield Finding("differs", "", "no route is announced: whoever learned routes to pods from here must reach the VPC")


def _controllers(spec: dict[str, Any]) -> Iterator[Finding]:
    if inner(spec, "controllers", "node", "hostEndpoint").get("autoCreate") == "Enabled":
        why = "nobody makes host endpoints for new nodes once calico-kube-controllers is gone: write them yourself"
        yield Finding("differs", "spec.controllers.node.hostEndpoint.autoCreate", why)
    yield Finding("replaced", "", "calico-kube-controllers is not needed")


def _cluster(spec: dict[str, Any]) -> Iterator[Finding]:
    if spec.get("datastoreReady") is False:
        yield Finding("differs", "spec.datastoreReady", "Felix waits while this is false; here policies are in force")
    yield Finding("replaced", "", f"Calico {spec.get('calicoVersion') or 'of an unknown version'}")


def _staged(spec: dict[str, Any]) -> Iterator[Finding]:
    yield Finding("same", "", "decides nothing, there as here")


_KINDS: Final[Mapping[str, Callable[[dict[str, Any]], Iterator[Finding]]]] = {
    "IPPool": _pool,
    "BGPConfiguration": _bgp,
    "BGPPeer": _peer,
    "BGPFilter": _peer,
    "KubeControllersConfiguration": _controllers,
    "ClusterInformation": _cluster,
    "StagedNetworkPolicy": _staged,
    "StagedGlobalNetworkPolicy": _staged,
    "StagedKubernetesNetworkPolicy": _staged,
}
