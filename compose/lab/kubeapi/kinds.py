"""What is served: the built-in kinds as a table, and whatever CustomResourceDefinitions add. No I/O."""

from collections.abc import Iterable, Iterator

import msgspec

Collection = tuple[str, str]
"""(group, plural): where objects are kept, whatever version they are read in."""


class Kind(msgspec.Struct, frozen=True):
    """One kind in one version. `has_status` says that it has a /status of its own, which ordinary writes then skip."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    has_status: bool = False
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    singular: str = ""
    subresources: tuple[str, ...] = ()
    """Further ones besides `status`."""

    @property
    def api_version(self) -> str:
        """`v1` or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As messages name it: `pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def collection(self) -> Collection:
        """Where its objects are kept."""
        return (self.group, self.plural)

    @property
    def list_kind(self) -> str:
        """The kind of a list of these."""
        return f"{self.kind}List"


def _kind(api_version: str, plural: str, kind: str, flags: str = "", short: str = "", sub: str = "") -> Kind:
    group, _, version = api_version.rpartition("/")
    words = flags.split()
    return Kind(
        group=group,
        version=version,
        plural=plural,
        kind=kind,
        singular=kind.lower(),
        namespaced="cluster" not in words,
        has_status="status" in words,
        categories=("all",) if "all" in words else (),
        short_names=tuple(short.split()),
        subresources=tuple(sub.split()),
    )


BUILT_IN = (
    _kind("v1", "pods", "Pod", "status all", "po", "binding eviction"),
    _kind("v1", "namespaces", "Namespace", "cluster status", "ns", "finalize"),
    _kind("v1", "nodes", "Node", "cluster status", "no"),
    _kind("v1", "services", "Service", "status all", "svc"),
    _kind("v1", "endpoints", "Endpoints", "", "ep"),
    _kind("v1", "configmaps", "ConfigMap", "", "cm"),
    _kind("v1", "secrets", "Secret"),
    _kind("v1", "serviceaccounts", "ServiceAccount", "", "sa"),
    _kind("v1", "events", "Event", "", "ev"),
    _kind("v1", "persistentvolumes", "PersistentVolume", "cluster status", "pv"),
    _kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim", "status", "pvc"),
    _kind("v1", "limitranges", "LimitRange", "", "limits"),
    _kind("v1", "resourcequotas", "ResourceQuota", "status", "quota"),
    _kind("v1", "replicationcontrollers", "ReplicationController", "status all", "rc"),
    _kind("apps/v1", "deployments", "Deployment", "status all", "deploy"),
    _kind("apps/v1", "daemonsets", "DaemonSet", "status all", "ds"),
    _kind("apps/v1", "replicasets", "ReplicaSet", "status all", "rs"),
    _kind("apps/v1", "statefulsets", "StatefulSet", "status all", "sts"),
    _kind("apps/v1", "controllerrevisions", "ControllerRevision"),
    _kind("batch/v1", "jobs", "Job", "status all"),
    _kind("batch/v1", "cronjobs", "CronJob", "status all", "cj"),
    _kind("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
    _kind("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", "", "netpol"),
    _kind("networking.k8s.io/v1", "ingresses", "Ingress", "status", "ing"),
    _kind("networking.k8s.io/v1", "ingressclasses", "IngressClass", "cluster"),
    _kind("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", "status", "pdb"),
    _kind("rbac.authorization.k8s.io/v1", "roles", "Role"),
    _kind("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
    _kind("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", "cluster"),
    _kind("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", "cluster"),
    _kind("coordination.k8s.io/v1", "leases", "Lease"),
    _kind("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", "cluster", "pc"),
    _kind("storage.k8s.io/v1", "storageclasses", "StorageClass", "cluster", "sc"),
    _kind(
        "admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        "cluster",
    ),
    _kind(
        "admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", "cluster"
    ),
    _kind(
        "apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", "cluster status", "crd crds"
    ),
)


class Kinds:
    """Every kind served now, by group, version and plural, in the order in which they came."""

    def __init__(self, kinds: Iterable[Kind] = BUILT_IN) -> None:
        self._kinds: dict[tuple[str, str, str], Kind] = {}
        self.serve(kinds)

    def serve(self, kinds: Iterable[Kind]) -> None:
        """Add kinds, or replace those of the same name."""
        for kind in kinds:
            self._kinds[kind.group, kind.version, kind.plural] = kind

    def withdraw(self, collection: Collection) -> None:
        """Stop serving a collection in every version."""
        self._kinds = {key: kind for key, kind in self._kinds.items() if kind.collection != collection}

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """The kind served at that place."""
        return self._kinds.get((group, version, plural))

    def built_in(self, group: str, plural: str) -> Kind:
        """A kind of the table above."""
        return self._kinds[group, "v1", plural]

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())
