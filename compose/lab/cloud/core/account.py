"""The state of one account in one region and one VPC: the cloud's truth.

Everything here is synchronous and takes the time as a value. A change that takes the cloud time is put on a
calendar and made by `advance`; a change that packets must feel is put in a list of effects, which whoever
holds the fabric takes with `take_effects` and carries out in order, answering with `plugged`/`unplugged`:

    action ─► Account ─► answer
                 │ ▲
         effects ▼ │ plugged, unplugged, advance(now)
                fabric

Security groups are changed by `security.py`, route tables by `routes.py`, each on the account's own state.
"""

from collections.abc import Sequence
from functools import partial

from compose.lab.cloud.core import errors
from compose.lab.cloud.core.addressing import MAX_DETACHED_IPV4, Addressing, some_addresses, some_prefixes
from compose.lab.cloud.core.catalogue import InstanceType
from compose.lab.cloud.core.layout import Layout
from compose.lab.cloud.core.model import (
    AddNode,
    Eni,
    EniStatus,
    EniType,
    Guard,
    Instance,
    Plug,
    RemoveNode,
    Tag,
    Unplug,
    VSwitch,
)
from shared.model import Mac

__all__ = ["Account", "Layout"]


class Account(Addressing):
    """Instances, network interfaces, addresses and keys, and the rules that bind them."""

    # ---- what the world answers

    def plugged(self, eni_id: str, now: float) -> None:
        """The device is in the machine."""
        eni = self.enis.get(eni_id)
        if eni is not None and eni.status is EniStatus.ATTACHING:
            eni.status = EniStatus.IN_USE
            self._publish_later(eni, now)

    def unplugged(self, eni_id: str, now: float) -> None:
        """The device has left the machine."""
        eni = self.enis.get(eni_id)
        if eni is not None and eni.status is EniStatus.DETACHING:
            self._leave_instance(eni)

    # ---- instances

    def run_instance(self, name: str, *, vswitch: str, instance_type: str, now: float, ipv6_count: int = 0) -> Instance:
        """A new machine with its primary network interface; asking again for the same gives the same."""
        if (existing := self.instance_named(name)) is not None:
            if (existing.vswitch, existing.type) == (vswitch, instance_type):
                return existing
            raise errors.CloudError(
                "IdempotentParameterMismatch", f"instance {name} exists as {existing.type} in {existing.vswitch}", 409
            )
        self.instance_type(instance_type)
        subnet = self.vswitch(vswitch)
        groups = list(self.security_groups)[:1]
        instance_id = self.new_id("i-")
        eni = self._new_eni(EniType.PRIMARY, subnet, groups, now)
        if ipv6_count:
            eni.ipv6 = some_addresses(self._space6(eni), eni.id, ipv6_count, (), "Ipv6Address")
        eni.status = EniStatus.ATTACHING
        instance = Instance(instance_id, name, instance_type, vswitch, subnet.zone, eni.id, now)
        self.instances[instance_id] = instance
        self._join_instance(eni, instance_id)
        self._effects.append(AddNode(name))
        self._plug(eni)
        return instance

    def release_instance(self, instance_id: str) -> None:
        """The machine goes, and with it every network interface that is to be deleted on release."""
        instance = self.instance(instance_id)
        for eni in self.enis_of(instance_id):
            if eni.type is not EniType.MEMBER:
                self._effects.append(Unplug(eni.id))
            if eni.type is EniType.PRIMARY or eni.delete_on_release or eni.status is EniStatus.DELETING:
                self._forget(eni)
            else:
                self._leave_instance(eni)
        self._effects.append(RemoveNode(instance.name))
        del self.instances[instance_id]
        del self._by_instance[instance_id]

    def _join_instance(self, eni: Eni, instance_id: str) -> None:
        eni.instance = instance_id
        self._by_instance.setdefault(instance_id, {})[eni.id] = None

    def _leave_instance(self, eni: Eni) -> None:
        if eni.instance is not None:
            self._by_instance.get(eni.instance, {}).pop(eni.id, None)
        eni.instance, eni.served, eni.status = None, None, EniStatus.AVAILABLE
        if eni.type is EniType.MEMBER:
            eni.type, eni.trunk, eni.vlan = EniType.SECONDARY, None, 0

    def _plug(self, eni: Eni) -> None:
        plug = self.plug_of(eni.id)
        assert plug is not None
        self._effects.append(plug)

    def plug_of(self, eni_id: str) -> Plug | None:
        """What the world must do to put it into its machine; None: it has none, or is gone."""
        eni = self.enis.get(eni_id)
        if eni is None or eni.instance is None:
            return None
        node, primary = self.instances[eni.instance].name, eni.type is EniType.PRIMARY
        return Plug(eni.id, eni.mac, eni.vswitch, node, eni.everything, primary, tuple(eni.security_groups))

    # ---- network interfaces

    def create_eni(
        self,
        *,
        vswitch: str,
        security_groups: Sequence[str],
        now: float,
        kind: EniType = EniType.SECONDARY,
        primary_ip: str | None = None,
        addresses: Sequence[str] = (),
        secondary_count: int = 0,
        ipv6_count: int = 0,
        ipv6_addresses: Sequence[str] = (),
        ipv4_prefix_count: int = 0,
        ipv4_prefixes: Sequence[str] = (),
        ipv6_prefix_count: int = 0,
        ipv6_prefixes: Sequence[str] = (),
        name: str = "",
        description: str = "",
        tags: Sequence[Tag] = (),
        resource_group: str = "",
        delete_on_release: bool = True,
        source_dest_check: bool = False,
        traffic_mode: str = "Standard",
    ) -> Eni:
        """A network interface that no instance has; `secondary_count` or `addresses` come on top of the primary."""
        subnet = self.vswitch(vswitch)
        self.check_groups(security_groups)
        if len(self.enis) >= self.quotas.enis:
            raise errors.quota_exceeded("Eni", "network interfaces", self.quotas.enis)
        extra = len(addresses) or secondary_count
        slots = 1 + extra + (len(ipv4_prefixes) or ipv4_prefix_count)
        if slots > MAX_DETACHED_IPV4:
            raise errors.too_many_addresses(MAX_DETACHED_IPV4)
        if (free := self._ipv4[vswitch].free) < 1 + extra:
            raise errors.vswitch_exhausted(vswitch, free, 1 + extra)
        self._check_vswitch_quota(vswitch, 1 + extra)
        eni = self._new_eni(kind, subnet, security_groups, now, primary_ip)
        space = self._ipv4[vswitch]
        try:
            eni.ipv4 += some_addresses(
                space, eni.id, 0 if addresses else secondary_count, addresses, "PrivateIpAddress"
            )
            eni.ipv4_prefixes = some_prefixes(space, eni.id, ipv4_prefix_count, ipv4_prefixes, "Ipv4Prefix")
            if ipv6_count or ipv6_addresses:
                eni.ipv6 = some_addresses(self._space6(eni), eni.id, ipv6_count, ipv6_addresses, "Ipv6Address")
            if ipv6_prefix_count or ipv6_prefixes:
                eni.ipv6_prefixes = some_prefixes(
                    self._space6(eni), eni.id, ipv6_prefix_count, ipv6_prefixes, "Ipv6Prefix"
                )
        except errors.CloudError:
            self._forget(eni)
            raise
        eni.name, eni.description, eni.tags, eni.resource_group = name, description, list(tags), resource_group
        eni.delete_on_release, eni.source_dest_check = delete_on_release, source_dest_check
        eni.traffic_mode = traffic_mode
        self.calendar.after(self.delays.create, now, partial(self._created, eni))
        return eni

    def _created(self, eni: Eni) -> None:
        if eni.status is EniStatus.CREATING:
            eni.status = EniStatus.AVAILABLE

    def _new_eni(
        self, kind: EniType, subnet: VSwitch, groups: Sequence[str], now: float, primary_ip: str | None = None
    ) -> Eni:
        eni_id = self.new_id("eni-")
        space = self._ipv4[subnet.id]
        ipv4 = space.claim(eni_id, [primary_ip], "PrimaryIpAddress") if primary_ip else space.take(eni_id, 1)
        octets = (0x00163E_000000 | self._counter & 0xFFFFFF).to_bytes(6, "big")
        mac = Mac(octets.hex(":"))
        self.enis[eni_id] = eni = Eni(eni_id, mac, kind, subnet.id, subnet.zone, ipv4, list(groups), now)
        for group in groups:
            self.members[group][eni_id] = None
        return eni

    def attach_eni(self, eni_id: str, instance_id: str, now: float, *, trunk: str | None = None) -> None:
        """Begin to put it into the machine, or as a member onto a trunk that is in the machine."""
        eni, instance = self.eni(eni_id), self.instance(instance_id)
        if eni.status is not EniStatus.AVAILABLE:
            raise errors.wrong_eni_state(eni_id, eni.status)
        if eni.zone != instance.zone:
            sentence = f"The network interface is in zone {eni.zone}, the instance in {instance.zone}."
            raise errors.CloudError("InvalidOperation.AvailabilityZoneMismatch", sentence, 403)
        limits = self.instance_type(instance.type)
        self._check_room(eni, instance, limits, trunk)
        if len(eni.ipv4) + len(eni.ipv4_prefixes) > limits.ipv4_per_eni:
            raise errors.too_many_addresses(limits.ipv4_per_eni)
        if len(eni.ipv6) + len(eni.ipv6_prefixes) > limits.ipv6_per_eni:
            raise errors.too_many_ipv6(limits.ipv6_per_eni)
        if trunk is not None:
            taken = {e.vlan for e in self.enis_of(instance_id) if e.trunk == trunk}
            eni.type, eni.trunk = EniType.MEMBER, trunk
            eni.vlan = next(vlan for vlan in range(1, 4095) if vlan not in taken)
        self._join_instance(eni, instance_id)
        eni.status = EniStatus.ATTACHING
        self.calendar.after(self.delays.attach, now, partial(self._attach, eni, instance_id, now))

    def _check_room(self, eni: Eni, instance: Instance, limits: InstanceType, trunk: str | None) -> None:
        """Does the instance take one more of this kind?"""
        mine = self.enis_of(instance.id)
        members = sum(e.type is EniType.MEMBER for e in mine)
        most, have = limits.eni_quantity, len(mine) - members
        if trunk is not None:
            carrier = self.eni(trunk)
            if carrier.type is not EniType.TRUNK or carrier.instance != instance.id or eni.type is EniType.TRUNK:
                raise errors.malformed("TrunkNetworkInstanceId", "not a trunk of this instance")
            most, have = limits.eni_total - limits.eni_quantity, members
        elif eni.type is EniType.TRUNK and not limits.trunk:
            sentence = f"Instances of {limits.name} do not support trunk network interfaces."
            raise errors.CloudError("InvalidInstanceType.TrunkNotSupported", sentence, 403)
        if have >= most:
            sentence = f"The number of network interfaces exceeds the limit of {limits.name} ({most})."
            raise errors.CloudError("EniPerInstanceLimitExceeded", sentence, 403)

    def _attach(self, eni: Eni, instance_id: str, now: float) -> None:
        if eni.status is not EniStatus.ATTACHING or eni.instance != instance_id:
            return  # the instance that it was for has gone meanwhile
        if eni.type is EniType.MEMBER:
            eni.status = EniStatus.IN_USE  # its trunk's device is there already
        else:
            self._plug(eni)

    def detach_eni(self, eni_id: str, instance_id: str, now: float) -> None:
        """Begin to take it out of the machine."""
        eni, instance = self.eni(eni_id), self.instance(instance_id)
        if eni.type is EniType.PRIMARY:
            raise errors.CloudError(
                "InvalidOperation.DetachPrimaryEniNotAllowed", "Detaching the primary network interface is not allowed."
            )
        if eni.status is not EniStatus.IN_USE or eni.instance != instance.id:
            raise errors.wrong_eni_state(eni_id, eni.status)
        if any(e.trunk == eni_id for e in self.enis_of(instance_id)):
            raise errors.wrong_eni_state(eni_id, "a trunk with members")
        eni.status, eni.served = EniStatus.DETACHING, None
        self.calendar.after(self.delays.detach, now, partial(self._detach, eni))

    def _detach(self, eni: Eni) -> None:
        if eni.status is EniStatus.DETACHING:
            if eni.type is EniType.MEMBER:
                self._leave_instance(eni)
            else:
                self._effects.append(Unplug(eni.id))

    def delete_eni(self, eni_id: str, now: float) -> None:
        """Begin to delete it."""
        eni = self.eni(eni_id)
        if eni.status is EniStatus.DELETING:
            return
        if eni.status is not EniStatus.AVAILABLE:
            raise errors.wrong_eni_state(eni_id, eni.status)
        eni.status = EniStatus.DELETING
        self.calendar.after(self.delays.delete, now, partial(self._deleted, eni))

    def _deleted(self, eni: Eni) -> None:
        if eni.status is EniStatus.DELETING and eni.id in self.enis:
            self._forget(eni)

    def _forget(self, eni: Eni) -> None:
        self._ipv4[eni.vswitch].give_back(eni.ipv4)
        self._ipv4[eni.vswitch].give_back_prefixes(eni.ipv4_prefixes)
        if eni.ipv6 or eni.ipv6_prefixes:
            self._ipv6[eni.vswitch].give_back(eni.ipv6)
            self._ipv6[eni.vswitch].give_back_prefixes(eni.ipv6_prefixes)
        if eni.instance is not None:
            self._by_instance.get(eni.instance, {}).pop(eni.id, None)
        for group in eni.security_groups:
            self.members[group].pop(eni.id, None)
        eni.status = EniStatus.DELETING  # what the calendar still holds for it finds nothing to do
        del self.enis[eni.id]

    def set_groups(self, eni: Eni, groups: Sequence[str]) -> None:
        """Its security groups are these from now on."""
        self.check_groups(groups, already=eni.security_groups)
        for group in eni.security_groups:
            self.members[group].pop(eni.id, None)
        for group in groups:
            self.members[group][eni.id] = None
        eni.security_groups = list(groups)
        if eni.instance is not None:
            self._effects.append(Guard(eni.id, tuple(groups)))

    def check_groups(self, groups: Sequence[str], already: Sequence[str] = ()) -> None:
        """Are these groups that one more network interface can be in? Raises."""
        for group in groups:
            if group not in self.security_groups:
                raise errors.security_group_not_found(group)
            most = self.quotas.enis_per_group
            if most is not None and group not in already and len(self.members[group]) >= most:
                sentence = f"The maximum number of instances in the security group {group} is exceeded ({most})."
                raise errors.CloudError("SecurityGroupInstanceLimitExceed", sentence, 403)
        if len(groups) > self.quotas.groups_per_eni:
            raise errors.quota_exceeded("SecurityGroup", "security groups of an interface", self.quotas.groups_per_eni)

    def check(self) -> None:
        """Every invariant that no action may break; raises AssertionError."""
        seen: dict[str, str] = {}
        for eni in self.enis.values():
            space = self._ipv4[eni.vswitch]
            for address in (*eni.ipv4, *eni.ipv4_prefixes):
                first = address.partition("/")[0]
                assert address not in seen, f"{address} is on {seen[address]} and on {eni.id}"
                assert space.owner(first) == eni.id, f"{address} of {eni.id} is owned by {space.owner(first)}"
                seen[address] = eni.id
            attached = eni.status in (EniStatus.ATTACHING, EniStatus.IN_USE, EniStatus.DETACHING)
            assert attached == (eni.instance is not None), f"{eni.id} is {eni.status} and has {eni.instance}"
            if eni.instance is not None:
                assert eni.id in self._by_instance[eni.instance]
        for vswitch in self.vswitches.values():
            mine = sum(len(e.ipv4) + 16 * len(e.ipv4_prefixes) for e in self.enis.values() if e.vswitch == vswitch.id)
            total = vswitch.network.num_addresses - 4
            assert self.free_addresses(vswitch.id) == total - mine, f"{vswitch.id} has lost addresses"
        for instance in self.instances.values():
            limits = self.instance_type(instance.type)
            mine_enis = self.enis_of(instance.id)
            assert sum(e.type is not EniType.MEMBER for e in mine_enis) <= limits.eni_quantity
            assert all(len(e.ipv4) + len(e.ipv4_prefixes) <= limits.ipv4_per_eni for e in mine_enis)
        for group, members in self.members.items():
            assert set(members) == {e.id for e in self.enis.values() if group in e.security_groups}, group
