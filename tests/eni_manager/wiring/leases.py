"""Leases to wire, and what the node is, in the terms of terway.md §5's example."""

from services.eni_manager.core.wiring.values import EniLink, Node
from shared.contracts.ipam import Bandwidth, Lease
from shared.model import AttachmentKey, Cidr, EniId, Ip, Mac, Mode, PodKey, Subnet

NODE = Node(Ip("10.0.0.5"), Ip("2001:db8::5"))
ENI = EniLink("eth1", 3)
SUBNET4 = Subnet(Cidr("192.168.32.0/19"), Ip("192.168.63.253"))
SUBNET6 = Subnet(Cidr("2001:db8:1::/64"), Ip("2001:db8:1::fd"))


def lease(*, ipv4: str | None = "192.168.32.17", ipv6: str | None = None, bandwidth: Bandwidth | None = None) -> Lease:
    """The lease of `default/nginx-0`."""
    return Lease(
        key=AttachmentKey("terway", "0123456789ab", "eth0"),
        pod=PodKey("default", "nginx-0"),
        pod_uid="uid",
        mode=Mode.SHARED_VETH,
        host_link="calic048fd9a750",
        eni_id=EniId("eni-1"),
        eni_mac=Mac("00:16:3e:00:2b:9b"),
        ipv4=None if ipv4 is None else Ip(ipv4),
        subnet4=None if ipv4 is None else SUBNET4,
        ipv6=None if ipv6 is None else Ip(ipv6),
        subnet6=None if ipv6 is None else SUBNET6,
        bandwidth=bandwidth or Bandwidth(),
    )
