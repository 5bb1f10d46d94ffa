"""What an API server fills in, at every write: the defaults of the kinds that the project reads. No I/O, no clock."""

from collections.abc import Iterable
from typing import Any

from compose.lab.kubeapi.kinds import Kind

Json = dict[str, Any]


def set_defaults(kind: Kind, obj: Json) -> Json:
    """The object, changed in place, with everything said that was left unsaid."""
    match kind.collection:
        case ("", "pods"):
            _pod(obj.setdefault("spec", {}))
            _addresses(obj.get("status") or {})
        case ("", "namespaces"):
            # Put again whenever somebody removes it.
            labels = obj["metadata"].setdefault("labels", {})
            labels["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")
            obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        case ("", "nodes"):
            _node(obj.setdefault("spec", {}))
        case ("", "services"):
            _service(obj.setdefault("spec", {}))
            obj.setdefault("status", {}).setdefault("loadBalancer", {})
        case ("discovery.k8s.io", "endpointslices"):
            for port in obj.get("ports") or ():
                port.setdefault("name", "")
                port.setdefault("protocol", "TCP")
        case ("networking.k8s.io", "networkpolicies"):
            _network_policy(obj.setdefault("spec", {}))
            obj.pop("status", None)
    return obj


def _set(obj: Json, **values: object) -> None:
    for key, value in values.items():
        if obj.get(key) in (None, "", []):
            obj[key] = value


def _pod(spec: Json) -> None:
    _set(
        spec,
        restartPolicy="Always",
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        terminationGracePeriodSeconds=30,
        securityContext={},
        enableServiceLinks=True,
        serviceAccountName=spec.get("serviceAccount") or "default",
    )
    spec["serviceAccount"] = spec["serviceAccountName"]
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        _set(
            container,
            imagePullPolicy="Always" if _is_latest(container.get("image", "")) else "IfNotPresent",
            terminationMessagePath="/dev/termination-log",
            terminationMessagePolicy="File",
            resources={},
        )
        for port in container.get("ports") or ():
            _set(port, protocol="TCP")
            if spec.get("hostNetwork"):
                port["hostPort"] = port.get("hostPort") or port.get("containerPort", 0)


def _is_latest(image: str) -> bool:
    name = image.rpartition("/")[2]
    return "@" not in name and (":" not in name or name.endswith(":latest"))


def _addresses(status: Json) -> None:
    """A pod's first address is said twice, for old readers and new ones."""
    if status.get("podIPs"):
        status["podIP"] = status["podIPs"][0].get("ip", "")
    elif status.get("podIP"):
        status["podIPs"] = [{"ip": status["podIP"]}]


def _node(spec: Json) -> None:
    """The same for a node's range of pod addresses."""
    if spec.get("podCIDRs"):
        spec["podCIDR"] = spec["podCIDRs"][0]
    elif spec.get("podCIDR"):
        spec["podCIDRs"] = [spec["podCIDR"]]


def _service(spec: Json) -> None:
    _set(spec, type="ClusterIP", sessionAffinity="None")
    if spec.get("clusterIP"):
        _set(spec, clusterIPs=[spec["clusterIP"]])
    elif spec.get("clusterIPs"):
        spec["clusterIP"] = spec["clusterIPs"][0]
    for port in spec.get("ports") or ():
        _set(port, protocol="TCP")
        if port.get("targetPort") in (None, "", 0):
            port["targetPort"] = port.get("port", 0)
    if spec["type"] != "ExternalName":
        _set(spec, internalTrafficPolicy="Cluster", ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"])
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _set(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        _set(spec, allocateLoadBalancerNodePorts=True)


def _network_policy(spec: Json) -> None:
    spec.setdefault("podSelector", {})
    for port in _policy_ports(spec):
        port.setdefault("protocol", "TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _policy_ports(spec: Json) -> Iterable[Json]:
    for rule in (*(spec.get("ingress") or ()), *(spec.get("egress") or ())):
        yield from rule.get("ports") or ()
