"""Which Felix to equal: every difference between the compat profiles, in one table.

`3.24.5` is what current Terway builds and is the default; `3.5.2` is what old Terway shipped; `current` is what later
Felix does (felix.md §0.1). Nothing else in the calculation asks for a version: it asks for one of these fields.
"""

from typing import Final

import msgspec

from services.policy.core.selectors import Language


class Compat(msgspec.Struct, frozen=True, kw_only=True):
    """One profile. The fields say what it does; the defaults are those of 3.24.5."""

    name: str
    language: Language = Language.CURRENT
    """Selectors: whether `global()`, `contains`, `starts with` and `ends with` exist."""

    merged_ports: bool = True
    """A Kubernetes rule becomes one rule per protocol and peer with its ports merged; else one per port and peer."""
    finished_pods: bool = True
    """A pod that has ended gives its addresses back; else it keeps them until it is deleted."""
    all_pod_ips: bool = True
    """All of status.podIPs and the annotations with lists; else the one address of status.podIP."""
    name_labels: bool = True
    """Namespaces and service accounts carry their name as label `projectcalico.org/name`."""
    unnamed_host_ports: bool = True
    """A container port without a name but with a hostPort is a port of the pod (v1 drops it, but for its protocol)."""
    init_container_ports: bool = False
    """Named ports of init containers count."""
    sctp: bool = True
    """SCTP has ports, named ones included."""
    services: bool = True
    """`services` in rules, which select the endpoints of a Service."""
    network_sets: bool = True
    """The namespaced NetworkSet."""
    policy_scopes: bool = True
    """serviceAccountSelector of policies, and namespaceSelector of global ones."""
    profile_resources: bool = True
    """Labels are inherited from the v3 Profile; namespaces and service accounts are announced even without labels."""
    encapsulation: bool = True
    """One Encapsulation message goes with the first flush in sync."""
    rule_metadata: bool = True
    """Annotations of rules are passed on."""
    spoofing: bool = True
    """The annotation that allows a pod other source addresses is read."""

    kube_policy_prefix: str = "knp.default."
    """What stands before the name of a converted Kubernetes NetworkPolicy."""
    kube_policy_kind: str = ""
    """The kind in a converted policy's key."""
    forwarded: bool = True
    """Namespaced policies apply to forwarded traffic too."""
    tiers: bool = False
    """Tier objects count, and with them default actions, AdminNetworkPolicy and ClusterNetworkPolicy."""
    kinds: bool = False
    """A policy is known by kind, namespace and name; else by one name."""
    any_protocol_ports: bool = False
    """A named port in a rule without a protocol means any protocol; else such a rule is invalid."""


FELIX_3_24_5: Final = Compat(name="3.24.5")

FELIX_3_5_2: Final = Compat(
    name="3.5.2",
    language=Language.FELIX_3_5,
    merged_ports=False,
    finished_pods=False,
    all_pod_ips=False,
    name_labels=False,
    unnamed_host_ports=False,
    sctp=False,
    services=False,
    network_sets=False,
    policy_scopes=False,
    profile_resources=False,
    encapsulation=False,
    rule_metadata=False,
    spoofing=False,
)

FELIX_CURRENT: Final = Compat(
    name="current",
    init_container_ports=True,
    kube_policy_prefix="",
    kube_policy_kind="KubernetesNetworkPolicy",
    forwarded=False,
    tiers=True,
    kinds=True,
    any_protocol_ports=True,
)

PROFILES: Final = {compat.name: compat for compat in (FELIX_3_24_5, FELIX_3_5_2, FELIX_CURRENT)}
"""By name, the default first."""
