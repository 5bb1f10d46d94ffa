"""What the cluster says about one node's `eni_conf`: the ConfigMap that its label names (terway.md §2.4)."""

from typing import Any, Final

import msgspec

from shared import log as logs
from shared.config import ConfigError
from shared.kube.client import KubeClient
from shared.kube.errors import ApiNotFound
from shared.kube.objects import ConfigMap, Node
from shared.kube.resources import CONFIGMAPS, NODES

LABEL: Final = "terway-config"
KEY: Final = "eni_conf"

log = logs.get(__name__)


async def fetch_patch(client: KubeClient, node_name: str, namespace: str) -> dict[str, Any]:
    """The JSON merge patch for this node's eni_conf; empty where the label or its ConfigMap is missing.

    Two requests at most. Raises ConfigError when the ConfigMap cannot be used, ApiError when the server cannot say.
    """
    node = await client.get(NODES, Node, node_name)
    name = (node.metadata.labels or {}).get(LABEL, "")
    if not name:
        return {}
    try:
        found = await client.get(CONFIGMAPS, ConfigMap, name, namespace=namespace)
    except ApiNotFound:
        log.warning("node_configuration_missing", label=f"{LABEL}={name}", namespace=namespace)
        return {}
    where = f"ConfigMap {namespace}/{name}, which the node's label {LABEL} names"
    if KEY not in found.data:
        raise ConfigError([f"{where}: it has no key {KEY}; add it, or take the label off"])
    try:
        patch = msgspec.json.decode(found.data[KEY])
    except msgspec.DecodeError as error:
        raise ConfigError([f"{where}: {KEY} is not JSON: {error}"]) from error
    if not isinstance(patch, dict):
        raise ConfigError([f"{where}: {KEY}: expected an object, got {found.data[KEY][:60]!r}"])
    return patch
