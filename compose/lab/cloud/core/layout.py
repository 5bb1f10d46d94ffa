"""Where an account lives, what it was born with, and what it may have."""

import msgspec

from compose.lab.cloud.core.model import Direction, Quotas, Rule, SecurityGroup, VSwitch
from compose.lab.cloud.core.throttle import Limits

EVERYBODY = (
    Rule("sgr-lab-ipv4", Direction.INGRESS, "ALL", peer_cidr="0.0.0.0/0", priority=100),
    Rule("sgr-lab-ipv6", Direction.INGRESS, "ALL", peer_cidr6="::/0", priority=100),
)
"""Rules of the group that the lab's nodes are born in: what keeps packets away there is not the cloud."""


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the account lives and what it was born with."""

    region: str = "cn-lab"
    vpc: str = "vpc-lab"
    vpc_cidr: str = "192.168.0.0/16"
    vswitches: tuple[VSwitch, ...] = (
        VSwitch("vsw-lab-a", "cn-lab-a", "192.168.0.0/20", "2408:4005:3cd:1000::/64"),
        VSwitch("vsw-lab-b", "cn-lab-b", "192.168.16.0/20", "2408:4005:3cd:1001::/64"),
    )
    security_groups: tuple[SecurityGroup, ...] = (SecurityGroup("sg-lab", "lab", EVERYBODY),)
    role: str = "LabNodeRole"
    """The RAM role that every instance has."""
    route_table: str = "vtb-lab"
    router: str = "vrt-lab"
    resource_groups: tuple[str, ...] = ("rg-lab",)
    """The first one is the default."""
    quotas: Quotas = Quotas()
    limits: Limits = Limits()
    """How many calls it may make."""
