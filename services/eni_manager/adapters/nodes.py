"""The cluster's nodes and their pod ranges, as the API server has them: what mode vpc-route goes by."""

from collections.abc import Callable
from ipaddress import ip_network

from shared import log as logs
from shared.errors import Invalid
from shared.kube.client import KubeClient
from shared.kube.mirror import Applied, Change, Deleted
from shared.kube.objects import Meta, NodeSpec, Object
from shared.kube.reflector import Reflector
from shared.kube.resources import NAMESPACES, NODES
from shared.model import Cidr

log = logs.get(__name__)


class _Node(Object, frozen=True, rename="camel"):
    """A node, without its status, which is most of it."""

    metadata: Meta = Meta()
    spec: NodeSpec = NodeSpec()


class ClusterNodes:
    """Questions to the API server, and a watch of all nodes. Questions raise every SuiteError of shared.kube."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._ranges: dict[str, tuple[Cidr, ...]] = {}

    async def run(self, changed: Callable[[str], None]) -> None:
        """Watch until cancelled; `changed` is called with a node's name when its ranges are not what they were."""

        def take(change: Change[_Node]) -> None:
            if (name := self._take(change)) is not None:
                changed(name)

        await Reflector(self._client, NODES, _Node, on_change=take).run()

    @property
    def known(self) -> frozenset[Cidr]:
        """The ranges of all nodes, as far as they are known."""
        return frozenset(cidr for ranges in self._ranges.values() for cidr in ranges)

    async def cluster(self) -> str:
        """What tells this cluster from others in the VPC: the UID of kube-system, which lives as long as it."""
        found = await self._client.get(NAMESPACES, Object, "kube-system")
        return found.metadata.uid

    async def ranges(self, node: str) -> tuple[Cidr, ...]:
        """A node's pod ranges, the IPv4 one first; empty: it has been given none yet. NotFound: no such node."""
        return _ranges(await self._client.get(NODES, _Node, node))

    def _take(self, change: Change[_Node]) -> str | None:
        """The node that has other ranges now."""
        match change:
            case Applied(obj) | Deleted(obj):
                name = obj.metadata.name
                before = self._ranges.get(name, ())
                now: tuple[Cidr, ...] = ()
                if isinstance(change, Applied):
                    try:
                        now = _ranges(obj)
                    except Invalid as error:
                        log.warning("node_ranges_unreadable", because=error.message)
                self._ranges[name] = now
                if isinstance(change, Deleted):
                    del self._ranges[name]
                return name if now != before else None
            case _:
                return None


def _ranges(node: _Node) -> tuple[Cidr, ...]:
    texts = node.spec.pod_cidrs or ([node.spec.pod_cidr] if node.spec.pod_cidr else [])
    try:
        found = [Cidr(str(ip_network(text))) for text in texts]
    except ValueError as error:
        raise Invalid(f"node {node.metadata.name}: spec.podCIDRs {texts}: {error}") from error
    return tuple(sorted(found, key=lambda cidr: ":" in cidr))
