"""What the node is, and what ENIs for it are made of."""

import msgspec

from services.eni_manager.core.drift import CREATOR, NODE_TAG, Owner
from services.eni_manager.core.model import InstanceType
from services.eni_manager.core.preflight import instance_lacks
from shared.eni_conf import EniConf
from shared.model import Mode


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

    def lacks(self, mode: Mode) -> list[str]:
        """Why pods can have no addresses here in `mode`, a sentence each; empty: nothing speaks against it."""
        lacking = instance_lacks(mode, self.kind)
        if mode is not Mode.VPC_ROUTE and not self.security_groups:
            lacking.append(
                "no security group is known for new ENIs: eni_conf.security_groups is empty, and so is the primary "
                "ENI's list; set security_groups"
            )
        return lacking

    def unnamed_zone(self, conf: EniConf) -> str:
        """What to say when vSwitches are configured for other zones only; Terway takes the node's own in silence."""
        if not conf.vswitches or conf.vswitches.get(self.zone):
            return ""
        return (
            f"eni_conf.vswitches names none of this node's zone {self.zone}, only of "
            f"{', '.join(sorted(conf.vswitches))}; ENIs are made in the primary ENI's {self.vswitches[0]}"
        )

    def owner(self, conf: EniConf) -> Owner:
        """How to tell our ENIs from others, and how to mark new ones."""
        return Owner(
            instance=self.instance,
            # What is made must be found again by the filter.
            tags={**conf.eni_tags, **conf.eni_tag_filter, **CREATOR, NODE_TAG: self.instance},
            tag_filter=conf.eni_tag_filter,
            blocked=tuple((tag.key, tag.value) for tag in conf.eni_tag_block_list),
        )
