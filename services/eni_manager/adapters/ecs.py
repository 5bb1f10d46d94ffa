"""The actions of ECS and VPC that we use, typed (terway.md §6.12).

Requests are the official SDK's classes; answers are decoded into Structs of the few fields we need, so that a field
that the cloud adds costs nothing and one that it drops is noticed here.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Final

import msgspec
from aliyunsdkcore.request import RpcRequest
from aliyunsdkecs.request.v20140526.AssignIpv6AddressesRequest import AssignIpv6AddressesRequest
from aliyunsdkecs.request.v20140526.AssignPrivateIpAddressesRequest import AssignPrivateIpAddressesRequest
from aliyunsdkecs.request.v20140526.AttachNetworkInterfaceRequest import AttachNetworkInterfaceRequest
from aliyunsdkecs.request.v20140526.CreateNetworkInterfaceRequest import CreateNetworkInterfaceRequest
from aliyunsdkecs.request.v20140526.DeleteNetworkInterfaceRequest import DeleteNetworkInterfaceRequest
from aliyunsdkecs.request.v20140526.DescribeInstanceTypesRequest import DescribeInstanceTypesRequest
from aliyunsdkecs.request.v20140526.DescribeNetworkInterfacesRequest import DescribeNetworkInterfacesRequest
from aliyunsdkecs.request.v20140526.DetachNetworkInterfaceRequest import DetachNetworkInterfaceRequest
from aliyunsdkecs.request.v20140526.UnassignIpv6AddressesRequest import UnassignIpv6AddressesRequest
from aliyunsdkecs.request.v20140526.UnassignPrivateIpAddressesRequest import UnassignPrivateIpAddressesRequest
from aliyunsdkvpc.request.v20160428.DescribeVSwitchesRequest import DescribeVSwitchesRequest

from services.eni_manager.adapters.openapi import OpenApi, with_parameters
from services.eni_manager.core.drift import CloudAddress, CloudEni
from services.eni_manager.core.model import InstanceType
from services.eni_manager.core.placement import VSwitch
from shared.backoff import Backoff
from shared.errors import NotFound
from shared.model import EniId, Ip, Mac

PAGE: Final = 100
DESCRIPTION: Final = "interface create by terway"
"""As Terway writes it; people and scripts search for it."""

NO_RETRY: Final = Backoff(0.0, steps=1)


class _Address(msgspec.Struct, rename="pascal"):
    private_ip_address: str
    primary: bool = False


class _Addresses(msgspec.Struct, rename="pascal"):
    private_ip_set: list[_Address] = []


class _Ipv6(msgspec.Struct):
    ipv6: str = msgspec.field(name="Ipv6Address")


class _Ipv6s(msgspec.Struct):
    entries: list[_Ipv6] = msgspec.field(name="Ipv6Set", default_factory=list)


class _Groups(msgspec.Struct, rename="pascal"):
    security_group_id: list[str] = []


class _Tag(msgspec.Struct):
    key: str = msgspec.field(name="TagKey", default="")
    value: str = msgspec.field(name="TagValue", default="")


class _Tags(msgspec.Struct, rename="pascal"):
    tag: list[_Tag] = []


class _Eni(msgspec.Struct, rename="pascal"):
    network_interface_id: str
    mac_address: str
    status: str
    type: str = "Secondary"
    network_interface_name: str = ""
    instance_id: str = ""
    v_switch_id: str = ""
    zone_id: str = ""
    security_group_ids: _Groups = msgspec.field(default_factory=_Groups)
    private_ip_sets: _Addresses = msgspec.field(default_factory=_Addresses)
    ipv6_sets: _Ipv6s = msgspec.field(default_factory=_Ipv6s)
    tags: _Tags = msgspec.field(default_factory=_Tags)

    def plain(self) -> CloudEni:
        """The same in our terms."""
        return CloudEni(
            id=EniId(self.network_interface_id),
            mac=Mac(self.mac_address.lower()),
            status=self.status,
            type=self.type,
            name=self.network_interface_name,
            instance=self.instance_id,
            vswitch=self.v_switch_id,
            zone=self.zone_id,
            security_groups=tuple(self.security_group_ids.security_group_id),
            ipv4=tuple(
                CloudAddress(_ip(address.private_ip_address), address.primary)
                for address in self.private_ip_sets.private_ip_set
            ),
            ipv6=tuple(_ip(entry.ipv6) for entry in self.ipv6_sets.entries),
            tags={tag.key: tag.value for tag in self.tags.tag},
        )


class _Enis(msgspec.Struct, rename="pascal"):
    network_interface_set: list[_Eni] = []


class _EniPage(msgspec.Struct, rename="pascal"):
    network_interface_sets: _Enis
    next_token: str = ""


class _Assigned(msgspec.Struct, rename="pascal"):
    assigned_private_ip_addresses_set: "_AssignedSet"


class _AssignedSet(msgspec.Struct, rename="pascal"):
    private_ip_set: "_AssignedIps"


class _AssignedIps(msgspec.Struct, rename="pascal"):
    private_ip_address: list[str] = []


class _AssignedIpv6s(msgspec.Struct, rename="pascal"):
    ipv6_address: list[str] = []


class _AssignedIpv6(msgspec.Struct):
    entries: _AssignedIpv6s = msgspec.field(name="Ipv6Sets", default_factory=_AssignedIpv6s)


class _Done(msgspec.Struct, rename="pascal"):
    request_id: str = ""


class _Type(msgspec.Struct, rename="pascal"):
    instance_type_id: str
    eni_quantity: int
    eni_private_ip_address_quantity: int
    eni_ipv6_address_quantity: int = 0
    eni_total_quantity: int = 0
    eni_trunk_supported: bool = False
    eri_quantity: int = 0
    cpu_core_count: int = 0


class _TypeList(msgspec.Struct, rename="pascal"):
    instance_type: list[_Type] = []


class _Types(msgspec.Struct, rename="pascal"):
    instance_types: _TypeList


class _VSwitch(msgspec.Struct, rename="pascal"):
    v_switch_id: str
    zone_id: str = ""
    available_ip_address_count: int | None = None
    ipv6_cidr_block: str = ""


class _VSwitchList(msgspec.Struct, rename="pascal"):
    v_switch: list[_VSwitch] = []


class _VSwitches(msgspec.Struct, rename="pascal"):
    v_switches: _VSwitchList


class Ecs:
    """The cloud, as our driver knows it. Every method raises CloudError."""

    def __init__(self, api: OpenApi, *, backoffs: Mapping[str, Backoff]) -> None:
        self._api, self._backoffs = api, backoffs

    async def create_eni(
        self,
        *,
        name: str,
        token: str,
        vswitch: str,
        security_groups: Sequence[str],
        addresses: int,
        tags: Mapping[str, str],
        resource_group: str = "",
        ipv6: int = 0,
    ) -> CloudEni:
        """A new secondary ENI with `addresses` IPv4 addresses, its primary one included, and `ipv6` IPv6 addresses.

        The same token: the same ENI.
        """
        request = CreateNetworkInterfaceRequest()
        request.set_VSwitchId(vswitch)
        request.set_SecurityGroupIdss(list(security_groups))
        request.set_InstanceType("Secondary")
        request.set_NetworkInterfaceName(name)
        request.set_Description(DESCRIPTION)
        request.set_Tags([{"Key": key, "Value": value} for key, value in tags.items()])
        request.set_DeleteOnRelease("true")
        request.set_ClientToken(token)
        if addresses > 1:
            request.set_SecondaryPrivateIpAddressCount(addresses - 1)
        if ipv6:
            request.set_Ipv6AddressCount(ipv6)
        with_parameters(request, ResourceGroupId=resource_group)
        return (await self._api.call(request, _Eni, self._backoffs["eni_create"])).plain()

    async def attach_eni(self, eni: EniId, instance: str, *, token: str) -> None:
        """Begin to attach. Asynchronous: `describe_enis` says when it is InUse."""
        request = AttachNetworkInterfaceRequest()
        request.set_NetworkInterfaceId(eni)
        request.set_InstanceId(instance)
        await self._done(with_parameters(request, ClientToken=token), "eni_ops")

    async def detach_eni(self, eni: EniId, instance: str) -> None:
        """Begin to detach."""
        request = DetachNetworkInterfaceRequest()
        request.set_NetworkInterfaceId(eni)
        request.set_InstanceId(instance)
        await self._done(request, "eni_release")

    async def delete_eni(self, eni: EniId) -> None:
        """Begin to delete an unattached ENI."""
        request = DeleteNetworkInterfaceRequest()
        request.set_NetworkInterfaceId(eni)
        await self._done(request, "eni_ops")

    async def describe_enis(
        self, *, ids: Iterable[EniId] = (), instance: str = "", name: str = "", tags: Mapping[str, str] | None = None
    ) -> list[CloudEni]:
        """All ENIs that match every filter given."""
        found: list[CloudEni] = []
        token = ""
        while True:
            request = DescribeNetworkInterfacesRequest()
            request.set_MaxResults(PAGE)
            if ids:
                request.set_NetworkInterfaceIds(list(ids))
            if tags:
                request.set_Tags([{"Key": key, "Value": value} for key, value in tags.items()])
            with_parameters(request, InstanceId=instance, NetworkInterfaceName=name, NextToken=token)
            page = await self._api.call(request, _EniPage, self._backoffs["default"])
            found += [eni.plain() for eni in page.network_interface_sets.network_interface_set]
            token = page.next_token
            if not token:
                return found

    async def assign_ipv4(self, eni: EniId, count: int, *, token: str) -> list[Ip]:
        """`count` (1 to 10) more private addresses. The same token: the same addresses."""
        request = AssignPrivateIpAddressesRequest()
        request.set_NetworkInterfaceId(eni)
        request.set_SecondaryPrivateIpAddressCount(count)
        request.set_ClientToken(token)
        answer = await self._api.call(request, _Assigned, self._backoffs["eni_ip_ops"])
        return [_ip(text) for text in answer.assigned_private_ip_addresses_set.private_ip_set.private_ip_address]

    async def unassign_ipv4(self, eni: EniId, addresses: Sequence[Ip]) -> None:
        """Take secondary private addresses away, all or none."""
        request = UnassignPrivateIpAddressesRequest()
        request.set_NetworkInterfaceId(eni)
        request.set_PrivateIpAddresss(list(addresses))
        await self._done(request, "eni_ip_ops")

    async def assign_ipv6(self, eni: EniId, count: int, *, token: str) -> list[Ip]:
        """`count` (1 to 10) more IPv6 addresses. The same token: the same addresses."""
        request = AssignIpv6AddressesRequest()
        request.set_NetworkInterfaceId(eni)
        request.set_Ipv6AddressCount(count)
        request.set_ClientToken(token)
        answer = await self._api.call(request, _AssignedIpv6, self._backoffs["eni_ip_ops"])
        return [_ip(text) for text in answer.entries.ipv6_address]

    async def unassign_ipv6(self, eni: EniId, addresses: Sequence[Ip]) -> None:
        """Take IPv6 addresses away, all or none."""
        request = UnassignIpv6AddressesRequest()
        request.set_NetworkInterfaceId(eni)
        request.set_Ipv6Addresss(list(addresses))
        await self._done(request, "eni_ip_ops")

    async def describe_instance_type(self, name: str) -> InstanceType:
        """What a type of machine can hold. NotFound: the cloud knows no such type."""
        request = DescribeInstanceTypesRequest()
        request.set_InstanceTypess([name])
        answer = await self._api.call(request, _Types, self._backoffs["default"])
        for kind in answer.instance_types.instance_type:
            if kind.instance_type_id == name:
                return InstanceType(
                    name,
                    kind.eni_quantity,
                    kind.eni_private_ip_address_quantity,
                    kind.eni_ipv6_address_quantity,
                    eni_total=kind.eni_total_quantity,
                    trunk=kind.eni_trunk_supported,
                    eri=kind.eri_quantity,
                    cpus=kind.cpu_core_count,
                )
        raise NotFound(f"the cloud knows no instance type {name}")

    async def describe_vswitch(self, vswitch: str) -> VSwitch:
        """Where a vSwitch is, how many addresses are free in it, whether it has IPv6, and whether it exists at all."""
        request = DescribeVSwitchesRequest()
        request.set_VSwitchId(vswitch)
        answer = await self._api.call(request, _VSwitches, NO_RETRY)
        for found in answer.v_switches.v_switch:
            if found.v_switch_id == vswitch:
                free, zone = found.available_ip_address_count, found.zone_id or None
                return VSwitch(vswitch, free, bool(found.ipv6_cidr_block), zone)
        return VSwitch(vswitch, 0, zone="")

    async def _done(self, request: RpcRequest, backoff: str) -> None:
        await self._api.call(request, _Done, self._backoffs[backoff])


def _ip(text: str) -> Ip:
    return Ip(str(ip_address(text)))
