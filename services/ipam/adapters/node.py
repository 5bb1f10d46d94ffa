"""This node's condition in the API server: one PATCH when it changes, and one every few minutes as a heartbeat."""

from collections.abc import Callable
from datetime import UTC, datetime

from services.ipam.core.sufficiency import TYPE, Sufficiency
from shared.kube.client import KubeClient
from shared.kube.objects import Node
from shared.kube.requests import PatchType
from shared.kube.resources import NODES


class NodeCondition:
    """Says `SufficientIP`. Errors of the API server come out of `say`, and the next call says it again."""

    def __init__(
        self,
        client: KubeClient,
        node_name: str,
        *,
        heartbeat_s: float,
        clock: Callable[[], float],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client, self._node, self._heartbeat_s, self._clock, self._wall = (
            client,
            node_name,
            heartbeat_s,
            clock,
            wall,
        )
        self._said: tuple[float, Sufficiency] | None = None
        self._since = ""

    async def say(self, now: Sufficiency) -> None:
        """Tell the API server, unless it knows and has heard it lately."""
        known = self._said is not None and self._said[1].sufficient is now.sufficient
        if known and self._said is not None and self._clock() - self._said[0] < self._heartbeat_s:
            return
        stamp = self._wall().strftime("%Y-%m-%dT%H:%M:%SZ")
        since = self._since if known else stamp
        condition = {
            "type": TYPE,
            "status": str(now.sufficient),
            "reason": now.reason,
            "message": now.message,
            "lastHeartbeatTime": stamp,
            "lastTransitionTime": since,
        }
        patch = {"status": {"conditions": [condition]}}  # merged with the other conditions by type
        await self._client.patch(NODES, Node, self._node, patch, subresource="status", how=PatchType.STRATEGIC)
        self._said, self._since = (self._clock(), now), since
