"""Names of what the API server serves: group, version, plural. A new kind is a line here and a Struct in objects.py."""

import msgspec


class Resource(msgspec.Struct, frozen=True):
    """One REST collection. `group` is empty for the core API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As objects carry it: `v1`, `networking.k8s.io/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, in_namespace: bool, named: bool, subresource: str = "") -> str:
        """The URL path with `{namespace}` and `{name}` left to fill in, as aiokubernetes writes its own."""
        parts = [f"/apis/{self.group}" if self.group else "/api", self.version]
        if in_namespace:
            parts.append("namespaces/{namespace}")
        if self.plural:  # without one: the document that says what the version has
            parts.append(self.plural)
        if named:
            parts.append("{name}")
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap")
EVENTS = Resource("", "v1", "events", "Event")
SERVICES = Resource("", "v1", "services", "Service")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
