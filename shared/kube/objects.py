"""Kubernetes objects as we read them: only the fields that the suite uses, everything else is skipped unread.

The API server's JSON is the shape; field names are its camelCase turned into ours. Decoding 5,000 pods into these
costs a hundredth of what generated models cost. A kind of your own subclasses `Object` and adds `spec` or `status`.
"""

import msgspec


class OwnerReference(msgspec.Struct, frozen=True, rename="camel"):
    """Who an object belongs to; `controller` marks the one that manages it."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    controller: bool | None = None


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """ObjectMeta. Times are RFC 3339 text as the server wrote them; `deletion_timestamp` set means being deleted."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []
    finalizers: list[str] = []


class Object(msgspec.Struct, frozen=True, rename="camel"):
    """What every kind has; useful by itself where nothing but the metadata matters."""

    metadata: Meta = Meta()


# ---- pods


class ContainerPort(msgspec.Struct, frozen=True, rename="camel"):
    """A port that a container names; NetworkPolicy may refer to it by that name."""

    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"


class Resources(msgspec.Struct, frozen=True, rename="camel"):
    """Quantities in Kubernetes' text form, by resource name (`aliyun/eni`)."""

    requests: dict[str, str | int | float] = {}
    limits: dict[str, str | int | float] = {}


class Container(msgspec.Struct, frozen=True, rename="camel"):
    """A container, as far as the network cares."""

    name: str = ""
    ports: list[ContainerPort] = []
    resources: Resources = Resources()


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    """Where a pod runs and whether it has a network of its own."""

    node_name: str = ""
    host_network: bool = False
    service_account_name: str = ""
    containers: list[Container] = []
    init_containers: list[Container] = []


class PodIp(msgspec.Struct, frozen=True, rename="camel"):
    """One of a pod's addresses."""

    ip: str = ""


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    """`phase`: Pending, Running, Succeeded, Failed or Unknown; the addresses are what the kubelet last reported."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: list[PodIp] = msgspec.field(default_factory=list, name="podIPs")
    host_ip: str = msgspec.field(default="", name="hostIP")


class Pod(Object, frozen=True, rename="camel"):
    """A pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def finished(self) -> bool:
        """Its containers have ended for good, so its sandbox and address are no longer in use."""
        return self.status.phase in ("Succeeded", "Failed")


# ---- nodes and namespaces


class Taint(msgspec.Struct, frozen=True, rename="camel"):
    """A node's reason not to be scheduled on."""

    key: str = ""
    effect: str = ""
    value: str = ""


class NodeSpec(msgspec.Struct, frozen=True, rename="camel"):
    """`provider_id` names the instance: `cn-hangzhou.i-…`."""

    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: list[str] = msgspec.field(default_factory=list, name="podCIDRs")
    provider_id: str = msgspec.field(default="", name="providerID")
    unschedulable: bool = False
    taints: list[Taint] = []


class NodeAddress(msgspec.Struct, frozen=True, rename="camel"):
    """`type` is InternalIP, ExternalIP or Hostname."""

    type: str = ""
    address: str = ""


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """A condition of a node or another object; `status` is True, False or Unknown as text."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class NodeStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What the kubelet reports."""

    addresses: list[NodeAddress] = []
    conditions: list[Condition] = []
    capacity: dict[str, str | int | float] = {}
    allocatable: dict[str, str | int | float] = {}


class Node(Object, frozen=True, rename="camel"):
    """A node."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class NamespaceStatus(msgspec.Struct, frozen=True, rename="camel"):
    """`phase` is Active or Terminating."""

    phase: str = ""


class Namespace(Object, frozen=True, rename="camel"):
    """A namespace; its labels are what NetworkPolicy selects it by."""

    status: NamespaceStatus = NamespaceStatus()


class ConfigMap(Object, frozen=True, rename="camel"):
    """Configuration in the cluster (`kube-system/eni-config`)."""

    data: dict[str, str] = {}


# ---- events


class ObjectReference(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What an Event is about."""

    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""


class EventSource(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Who says so."""

    component: str = ""
    host: str = ""


class Event(Object, frozen=True, rename="camel"):
    """A core/v1 Event. `type` is Normal or Warning."""

    involved_object: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    type: str = ""
    source: EventSource = EventSource()
    count: int = 0
    first_timestamp: str | None = None
    last_timestamp: str | None = None
