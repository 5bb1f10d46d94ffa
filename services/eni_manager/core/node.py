"""What the node is, and what ENIs for it are made of."""

import msgspec

from services.eni_manager.core.drift import CREATOR, NODE_TAG, Owner
from services.eni_manager.core.model import InstanceType
from shared.eni_conf import EniConf


class Node(msgspec.Struct, frozen=True):
    """Facts of the instance, learnt at start and kept in the journal for starts without the cloud."""

    instance: str
    region: str
    zone: str
    kind: InstanceType
    vswitches: tuple[str, ...]
    """Of the node's zone, as configured; else the primary ENI's."""
    security_groups: tuple[str, ...]
    """As configured; else the primary ENI's."""

    def owner(self, conf: EniConf) -> Owner:
        """How to tell our ENIs from others, and how to mark new ones."""
        return Owner(
            instance=self.instance,
            # What is made must be found again by the filter.
            tags={**conf.eni_tags, **conf.eni_tag_filter, **CREATOR, NODE_TAG: self.instance},
            tag_filter=conf.eni_tag_filter,
            blocked=tuple((tag.key, tag.value) for tag in conf.eni_tag_block_list),
        )
