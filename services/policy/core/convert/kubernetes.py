"""Kubernetes objects -> Calico's (felix.md §1.6): pods become endpoints, namespaces and service accounts profiles.

What differs between the versions of the original is asked of the compat profile, nowhere else.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

import msgspec

from services.policy.core import nets, objects, v1
from services.policy.core.convert import calico
from services.policy.core.problems import Invalid, Note, ignored
from services.policy.core.profiles import Compat

ORCHESTRATOR: Final = "projectcalico.org/orchestrator"
POLICY_ORDER: Final = 1000.0

POD_IP: Final = "cni.projectcalico.org/podIP"
POD_IPS: Final = "cni.projectcalico.org/podIPs"
AWS_POD_IPS: Final = "vpc.amazonaws.com/pod-ips"
TERWAY_POD_IPS: Final = "k8s.aliyun.com/pod-ips"
FLOATING_IPS: Final = "cni.projectcalico.org/floatingIPs"
SOURCE_PREFIXES: Final = "cni.projectcalico.org/allowedSourcePrefixes"
CONTAINER_ID: Final = "cni.projectcalico.org/containerID"

_ALLOW: Final = (objects.Rule(action="Allow"),)

DEFAULT_ALLOW: Final = objects.Profile(
    metadata=objects.Metadata(name="projectcalico-default-allow"),
    spec=objects.ProfileSpec(ingress=_ALLOW, egress=_ALLOW),
)
"""Exists without an object wherever profiles are resources."""


# ---- profiles


def namespace_profile(namespace: objects.Namespace, compat: Compat) -> objects.Profile:
    """What pods inherit from their namespace: its labels, and leave to talk to everybody."""
    name = namespace.metadata.name
    labels = {f"pcns.{key}": value for key, value in namespace.metadata.labels.items()}
    if compat.name_labels:
        labels["pcns.projectcalico.org/name"] = name
    spec = objects.ProfileSpec(ingress=_ALLOW, egress=_ALLOW, labels_to_apply=labels)
    return objects.Profile(metadata=objects.Metadata(name=f"kns.{name}"), spec=spec)


def account_profile(account: objects.ServiceAccount, compat: Compat) -> objects.Profile:
    """What pods inherit from their service account: its labels."""
    name, namespace = account.metadata.name, account.metadata.namespace or "default"
    labels = {f"pcsa.{key}": value for key, value in account.metadata.labels.items()}
    if compat.name_labels:
        labels["pcsa.projectcalico.org/name"] = name
    spec = objects.ProfileSpec(labels_to_apply=labels)
    return objects.Profile(metadata=objects.Metadata(name=f"ksa.{namespace}.{name}"), spec=spec)


# ---- pods


def is_networked(pod: objects.Pod) -> bool:
    """Whether the pod has, or will have, a network of its own on some node."""
    return bool(pod.spec.node_name) and not pod.spec.host_network


def interface_name(namespace: str, pod: str, prefix: str = "cali") -> str:
    """The host's end of the pod's link."""
    return prefix + hashlib.sha1(f"{namespace}.{pod}".encode(), usedforsecurity=False).hexdigest()[:11]


def workload_key(pod: objects.Pod) -> v1.WorkloadKey:
    """Host and name of the pod's endpoint."""
    return v1.WorkloadKey(
        sys.intern(pod.spec.node_name), "k8s", f"{pod.metadata.namespace}/{pod.metadata.name}", "eth0"
    )


def workload_endpoint(pod: objects.Pod, compat: Compat) -> v1.WorkloadEndpoint | None:
    """The endpoint; None while the pod has no address, or has given it back. Raises Invalid."""
    meta, spec = pod.metadata, pod.spec
    addresses = _addresses(pod, compat)
    ipv4 = tuple(text for text in addresses if not nets.is_ipv6(text))
    ipv6 = tuple(text for text in addresses if nets.is_ipv6(text))
    floating4, floating6 = _floating(meta.annotations, addresses, ipv4, ipv6, compat)
    spoofed = _source_prefixes(meta.annotations) if compat.spoofing else ()
    if not addresses:
        return None
    # A pod must not claim labels that are inherited from its namespace or service account.
    labels = {key: value for key, value in meta.labels.items() if not key.startswith(("pcns.", "pcsa."))}
    labels[calico.NAMESPACE] = meta.namespace
    labels[ORCHESTRATOR] = "k8s"
    if spec.service_account_name:
        labels[calico.SERVICE_ACCOUNT] = spec.service_account_name
    return v1.WorkloadEndpoint(
        state="active",
        name=interface_name(meta.namespace, meta.name),
        active_instance_id=meta.annotations.get(CONTAINER_ID, "") if compat.spoofing else "",
        profile_ids=_profiles(meta.namespace, spec.service_account_name),
        ipv4_nets=tuple(map(nets.full, ipv4)),
        ipv6_nets=tuple(map(nets.full, ipv6)),
        ipv4_nat=floating4,
        ipv6_nat=floating6,
        labels=labels,
        ports=_shared(tuple(_named_ports(spec, compat))),
        generate_name=meta.generate_name,
        allow_spoofed_source_ips=spoofed,
    )


def _addresses(pod: objects.Pod, compat: Compat) -> tuple[str, ...]:
    if compat.finished_pods and _is_finished(pod):
        return ()
    found = []
    for field, texts in _address_sources(pod, compat):
        for text in texts:
            # An annotation of the CNI plugin may carry a length; only the address counts.
            address = nets.address(text) or (nets.network(text) or "").partition("/")[0]
            if not address:
                raise Invalid(field, f"{text!r} is no address")
            found.append(address)
        if found:
            break
    return tuple(found)


def _address_sources(pod: objects.Pod, compat: Compat) -> Iterator[tuple[str, list[str]]]:
    """The places to look in, the first that has something wins."""
    annotations, status = pod.metadata.annotations, pod.status
    if compat.all_pod_ips:
        yield "status.podIPs", [entry.ip for entry in status.pod_ips if entry.ip]
    yield "status.podIP", [status.pod_ip] if status.pod_ip else []
    if not annotations:
        return
    for name, listed in ((POD_IPS, True), (POD_IP, False), (AWS_POD_IPS, True), (TERWAY_POD_IPS, True)):
        text = annotations.get(name, "")
        if text and (compat.all_pod_ips or name == POD_IP):
            yield f"metadata.annotations[{name}]", text.split(",") if listed else [text]


def _is_finished(pod: objects.Pod) -> bool:
    if pod.status.phase in ("Failed", "Succeeded", "Completed"):
        return True
    # The CNI plugin empties its annotation when it has given the address back, though the pod is still ending.
    annotations = pod.metadata.annotations
    return pod.metadata.deletion_timestamp is not None and (
        annotations.get(POD_IP) == "" or annotations.get(AWS_POD_IPS) == ""
    )


def _floating(
    annotations: Mapping[str, str],
    addresses: tuple[str, ...],
    ipv4: tuple[str, ...],
    ipv6: tuple[str, ...],
    compat: Compat,
) -> tuple[tuple[v1.AddressMap, ...], tuple[v1.AddressMap, ...]]:
    maps4: list[v1.AddressMap] = []
    maps6: list[v1.AddressMap] = []
    for text in _json_list(annotations, FLOATING_IPS):
        external = nets.address(text)
        if external is None:
            raise Invalid(f"metadata.annotations[{FLOATING_IPS}]", f"{text!r} is no address")
        # The last address of the same family; the oldest version knows one address and maps everything to it.
        behind = addresses if not compat.all_pod_ips else ipv6 if nets.is_ipv6(external) else ipv4
        if behind:
            (maps6 if nets.is_ipv6(behind[-1]) else maps4).append(v1.AddressMap(behind[-1], external))
    return tuple(maps4), tuple(maps6)


def _source_prefixes(annotations: Mapping[str, str]) -> tuple[str, ...]:
    prefixes = []
    for text in _json_list(annotations, SOURCE_PREFIXES):
        if (net := nets.network(text)) is None:
            raise Invalid(f"metadata.annotations[{SOURCE_PREFIXES}]", f"{text!r} is no network")
        prefixes.append(net)
    return tuple(prefixes)


def _json_list(annotations: Mapping[str, str], name: str) -> list[str]:
    if name not in annotations or not annotations[name]:
        return []
    field = f"metadata.annotations[{name}]"
    try:
        read = json.loads(annotations[name])
    except ValueError as error:
        raise Invalid(field, f"no JSON: {error}") from None
    except RecursionError:
        raise Invalid(field, "no list of texts") from None
    if read is None:
        return []
    if not isinstance(read, list) or not all(isinstance(text, str) for text in read):
        raise Invalid(field, "no list of texts")
    return read


@lru_cache(maxsize=4096)
def _profiles(namespace: str, account: str) -> tuple[str, ...]:
    """One tuple for all pods of a service account."""
    return (f"kns.{namespace}", f"ksa.{namespace}.{account}") if account else (f"kns.{namespace}",)


@lru_cache(maxsize=4096)
def _shared(ports: tuple[v1.EndpointPort, ...]) -> tuple[v1.EndpointPort, ...]:
    """One tuple for all pods with the same ports, of which a cluster has a hundred thousand."""
    return ports


def _named_ports(spec: objects.PodSpec, compat: Compat) -> Iterator[v1.EndpointPort]:
    containers = spec.containers + spec.init_containers if compat.init_container_ports else spec.containers
    known = ("tcp", "udp", "sctp") if compat.sctp else ("tcp", "udp")
    for container in containers:
        for port in container.ports:
            protocol = port.protocol.lower() or "tcp"
            if port.name and port.container_port and protocol in known:
                yield v1.EndpointPort(port.name, protocol, port.container_port)


# ---- policies


def network_policy(policy: objects.KubePolicy, compat: Compat, note: Note) -> objects.NetworkPolicy:
    """The Calico policy that means the same. A rule that cannot be converted is noted and left out."""
    spec = policy.spec
    _note_operators(spec.pod_selector, "spec.podSelector", note)
    ingress = [
        rule
        for i, entry in enumerate(spec.ingress)
        for rule in _rules(entry.ports, entry.peers, True, compat, f"spec.ingress[{i}]", note)
    ]
    egress = [
        rule
        for i, entry in enumerate(spec.egress)
        for rule in _rules(entry.ports, entry.peers, False, compat, f"spec.egress[{i}]", note)
    ]
    governed = [direction for direction in ("Ingress", "Egress") if direction in spec.policy_types]
    return objects.NetworkPolicy(
        metadata=objects.Metadata(
            name=compat.kube_policy_prefix + policy.metadata.name, namespace=policy.metadata.namespace
        ),
        spec=objects.NetworkPolicySpec(
            order=POLICY_ORDER,
            selector=selector_text(spec.pod_selector, pods=True),
            types=tuple(governed or ["Ingress"]),
            ingress=tuple(ingress),
            egress=tuple(egress),
        ),
    )


def selector_text(selector: objects.LabelSelector | None, *, pods: bool) -> str:
    """A label selector in Calico's words; of pods it says that they are pods of Kubernetes."""
    if selector is None:
        return f"{ORCHESTRATOR} == 'k8s'" if pods else ""
    terms = [f"{ORCHESTRATOR} == 'k8s'"] if pods else []
    terms += [f"{key} == '{value}'" for key, value in sorted(selector.match_labels.items())]
    for requirement in selector.match_expressions:
        values = ", ".join(f"'{value}'" for value in requirement.values)
        match requirement.operator:
            case "In":
                terms.append(f"{requirement.key} in {{ {values} }}")
            case "NotIn":
                terms.append(f"{requirement.key} not in {{ {values} }}")
            case "Exists":
                terms.append(f"has({requirement.key})")
            case "DoesNotExist":
                terms.append(f"! has({requirement.key})")
    return " && ".join(terms) if terms else "all()"


def _note_operators(selector: objects.LabelSelector | None, field: str, note: Note) -> None:
    """An operator that does not exist makes no term, so the selector selects more than it says."""
    for i, requirement in enumerate(selector.match_expressions if selector is not None else ()):
        if requirement.operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            note(f"{field}.matchExpressions[{i}].operator", f"{requirement.operator!r} is none: it limits nothing")


def _rules(
    ports: tuple[objects.PolicyPort, ...],
    peers: tuple[objects.Peer, ...],
    ingress: bool,
    compat: Compat,
    field: str,
    note: Note,
) -> list[objects.Rule]:
    peer_field = f"{field}.{'from' if ingress else 'to'}"
    try:
        if compat.merged_ports:
            groups = _merged_ports(ports, f"{field}.ports")
        else:
            groups = _single_ports(ports, f"{field}.ports", compat, note)
        sides = [_peer(peer, f"{peer_field}[{i}]", note) for i, peer in enumerate(peers)] or [objects.EntityRule()]
        return [_allow(protocol, numbers, side, ingress) for protocol, numbers in groups for side in sides]
    except Invalid as error:
        note(error.field, f"{error.reason}: the rule is dropped")
        return []


def _allow(protocol: str | None, ports: tuple[v1.Port, ...], side: objects.EntityRule, ingress: bool) -> objects.Rule:
    """Ports are always the destination's, the peer is whoever is not the pod."""
    if ingress:
        return objects.Rule(action="Allow", protocol=protocol, source=side, destination=objects.EntityRule(ports=ports))
    return objects.Rule(action="Allow", protocol=protocol, destination=msgspec.structs.replace(side, ports=ports))


def _peer(peer: objects.Peer, field: str, note: Note) -> objects.EntityRule:
    _note_operators(peer.pod_selector, f"{field}.podSelector", note)
    _note_operators(peer.namespace_selector, f"{field}.namespaceSelector", note)
    if peer.ip_block is not None and (peer.pod_selector is not None or peer.namespace_selector is not None):
        note(f"{field}.ipBlock", "excludes selectors: they are ignored")
    if peer.ip_block is None:
        return objects.EntityRule(
            selector=selector_text(peer.pod_selector, pods=True),
            namespace_selector=selector_text(peer.namespace_selector, pods=False),
        )
    net = nets.network(peer.ip_block.cidr, bare=False)
    if net is None:
        raise Invalid(f"{field}.ipBlock.cidr", f"{peer.ip_block.cidr!r} is no network")
    excepted = []
    for i, text in enumerate(peer.ip_block.excepted):
        if (hole := nets.network(text, bare=False)) is None:
            raise Invalid(f"{field}.ipBlock.except[{i}]", f"{text!r} is no network")
        excepted.append(hole)
    return objects.EntityRule(nets=(net,), not_nets=tuple(excepted))


_PortGroup = tuple[str | None, tuple[v1.Port, ...]]
"""A protocol and its ports; no ports at all means every one of them."""


def _single_ports(ports: tuple[objects.PolicyPort, ...], field: str, compat: Compat, note: Note) -> list[_PortGroup]:
    """The oldest version's: one group per entry, no ranges, and an empty entry restricts nothing."""
    groups: list[_PortGroup] = []
    for i, entry in enumerate(ports):
        if entry.end_port is not None:
            note(f"{field}[{i}].endPort", f"no ranges there: only port {entry.port} is meant", ignored(compat.name))
        if entry.port is None and entry.protocol is None:
            note(f"{field}[{i}]", "empty: every protocol is meant there, not TCP alone", ignored(compat.name))
        if not compat.sctp and entry.port is not None and entry.protocol == "SCTP":
            note(f"{field}[{i}].protocol", "SCTP has no ports there: the whole policy is dropped", ignored(compat.name))
        if entry.port is None:
            groups.append((entry.protocol, ()))
        else:
            groups.append((entry.protocol or "TCP", (calico.port(entry.port, f"{field}[{i}]"),)))
    return groups or [(None, ())]


def _merged_ports(ports: tuple[objects.PolicyPort, ...], field: str) -> list[_PortGroup]:
    """One group per protocol, in the order of their names."""
    by_protocol: dict[str, list[v1.Port] | None] = {}
    for i, entry in enumerate(ports):
        protocol = entry.protocol or "TCP"
        if entry.port is None:
            by_protocol[protocol] = None
            continue
        text = str(entry.port) if entry.end_port is None else f"{entry.port}:{entry.end_port}"
        number = calico.port(text, f"{field}[{i}]")
        listed = by_protocol.setdefault(protocol, [])
        if listed is not None:
            listed.append(number)
    groups: list[_PortGroup] = [(name, simplified_ports(by_protocol[name] or [])) for name in sorted(by_protocol)]
    return groups or [(None, ())]


def simplified_ports(ports: list[v1.Port]) -> tuple[v1.Port, ...]:
    """Names first, then numbers as ascending ranges, touching ones joined; less than two numbers stay as they are."""
    names = [port for port in ports if isinstance(port, str) and ":" not in port]
    ranges = sorted(_bounds(port) for port in ports if isinstance(port, int) or ":" in port)
    if sum(high - low + 1 for low, high in ranges) <= 1:
        return tuple(ports)
    merged = [ranges[0]]
    for low, high in ranges[1:]:
        last_low, last_high = merged[-1]
        if low <= last_high + 1:
            merged[-1] = (last_low, max(last_high, high))
        else:
            merged.append((low, high))
    return (*names, *(low if low == high else f"{low}:{high}" for low, high in merged))


def _bounds(port: v1.Port) -> tuple[int, int]:
    if isinstance(port, int):
        return port, port
    low, _, high = port.partition(":")
    return int(low), int(high)


# ---- services


def service_endpoints(slice_: objects.EndpointSlice, note: Note) -> v1.ServiceEndpoints | None:
    """What the slice says of its service; None when it has none. Readiness does not matter here."""
    service = slice_.metadata.labels.get("kubernetes.io/service-name", "")
    if not service:
        return None
    addresses = [nets.address(text) for endpoint in slice_.endpoints for text in endpoint.addresses]
    if None in addresses and slice_.address_type != "FQDN":
        note("endpoints", "not all of the addresses are addresses: the others are left out")
    if any(port.port is not None and not 0 < port.port <= 65535 for port in slice_.ports):
        note("ports", "not all of the ports are ports: the others are left out")
    return v1.ServiceEndpoints(
        service=f"{slice_.metadata.namespace}/{service}",
        addresses=tuple(text for text in addresses if text is not None),
        ports=tuple(
            v1.SlicePort(port.port, port.protocol)
            for port in slice_.ports
            if port.port is None or 0 < port.port <= 65535
        ),
    )
