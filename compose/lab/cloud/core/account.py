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

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from compose.lab.cloud.core import errors
from compose.lab.cloud.core.addresses import AddressSpace
from compose.lab.cloud.core.calendar import Calendar
from compose.lab.cloud.core.catalogue import TYPES, InstanceType
from compose.lab.cloud.core.keys import Keys
from compose.lab.cloud.core.model import (
    AccessKey,
    AddNode,
    Assign,
    DefineGroup,
    Delays,
    Direction,
    Effect,
    Eni,
    EniStatus,
    EniType,
    Guard,
    Instance,
    Plug,
    Quotas,
    RemoveNode,
    RouteEntry,
    Rule,
    SecurityGroup,
    Served,
    Tag,
    Unassign,
    Unplug,
    VSwitch,
)
from compose.lab.cloud.core.throttle import Limits
from shared.model import Cidr, Ip, Mac

MAX_DETACHED_IPV4 = 50
"""Private IPv4 addresses of a network interface that no instance has yet (API reference)."""

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


class Account:
    """Instances, network interfaces, addresses and keys, and the rules that bind them."""

    def __init__(
        self,
        layout: Layout | None = None,
        *,
        delays: Delays | None = None,
        random: Callable[[], float] = lambda: 0.5,
    ) -> None:
        """`random` gives numbers in [0, 1) for the delays."""
        self.layout = layout or Layout()
        self.quotas = self.layout.quotas
        self.delays = delays or Delays()
        self.vswitches = {v.id: v for v in self.layout.vswitches}
        self.security_groups = {g.id: g for g in self.layout.security_groups}
        self.members: dict[str, dict[str, None]] = {g: {} for g in self.security_groups}
        """Security group to the network interfaces in it."""
        self.routes: dict[str, RouteEntry] = {}
        """The customer's entries of the route table, by id."""
        self.enis: dict[str, Eni] = {}
        self.instances: dict[str, Instance] = {}
        self.keys = Keys()
        self.calendar = Calendar(random)
        self._ipv4 = {v.id: AddressSpace(v.id, v.cidr) for v in self.layout.vswitches}
        self._ipv6 = {v.id: AddressSpace(v.id, v.ipv6_cidr) for v in self.layout.vswitches if v.ipv6_cidr}
        self._by_instance: dict[str, dict[str, None]] = {}
        self._effects: list[Effect] = [DefineGroup(g) for g in self.security_groups.values()]
        self._counter = 0

    def add_key(self, key: AccessKey) -> None:
        """Let its holder call."""
        self.keys.add(key)

    # ---- time and the world

    @property
    def next_due(self) -> float | None:
        """When `advance` has something to do."""
        return self.calendar.next_due

    def advance(self, now: float) -> None:
        """Make every change whose time has come."""
        self.calendar.advance(now)

    def emit(self, effect: Effect) -> None:
        """Let the world do this after what it was told before."""
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """What the world must do now, in this order. Each is given out once."""
        effects, self._effects = self._effects, []
        return effects

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

    def _publish_later(self, eni: Eni, now: float) -> None:
        self.calendar.after(self.delays.metadata, now, partial(self._publish, eni))

    def _publish(self, eni: Eni) -> None:
        if eni.status is EniStatus.IN_USE:
            eni.served = Served(tuple(eni.ipv4), tuple(eni.ipv6), tuple(eni.ipv4_prefixes), tuple(eni.ipv6_prefixes))

    def new_id(self, prefix: str) -> str:
        """An id that nothing had before."""
        self._counter += 1
        return f"{prefix}lab{self._counter:08x}"

    def skip_ids_of(self, double: "Account") -> None:
        """Never give what a copy of this account has given meanwhile."""
        self._counter = max(self._counter, double._counter)

    # ---- instances

    def run_instance(self, name: str, *, vswitch: str, instance_type: str, now: float) -> Instance:
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
        eni.status = EniStatus.ATTACHING
        instance = Instance(instance_id, name, instance_type, vswitch, subnet.zone, eni.id, groups, now)
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
            eni.ipv4 += _some(space, eni.id, 0 if addresses else secondary_count, addresses, "PrivateIpAddress")
            eni.ipv4_prefixes = _prefixes(space, eni.id, ipv4_prefix_count, ipv4_prefixes, "Ipv4Prefix")
            if ipv6_count or ipv6_addresses:
                eni.ipv6 = _some(self._space6(eni), eni.id, ipv6_count, ipv6_addresses, "Ipv6Address")
            if ipv6_prefix_count or ipv6_prefixes:
                eni.ipv6_prefixes = _prefixes(self._space6(eni), eni.id, ipv6_prefix_count, ipv6_prefixes, "Ipv6Prefix")
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

    # ---- addresses and prefixes

    def assign_ipv4(self, eni_id: str, now: float, *, count: int = 0, addresses: Sequence[str] = ()) -> list[Ip]:
        """Secondary private addresses: `count` free ones, or exactly `addresses`. All or none."""
        eni, wanted = self._settled(eni_id), len(addresses) or count
        self._check_slots4(eni, wanted)
        space = self._ipv4[eni.vswitch]
        if wanted <= space.free:
            self._check_vswitch_quota(eni.vswitch, wanted)
        fresh = _some(space, eni_id, count, addresses, "PrivateIpAddress")
        eni.ipv4.extend(fresh)
        self._addresses_changed(eni, now, Assign(eni_id, tuple(fresh)))
        return fresh

    def assign_ipv4_prefixes(
        self, eni_id: str, now: float, *, count: int = 0, prefixes: Sequence[str] = ()
    ) -> list[Cidr]:
        """Blocks of 16 addresses, each in the place of one address. All or none."""
        eni = self._settled(eni_id)
        self._check_slots4(eni, len(prefixes) or count)
        fresh = _prefixes(self._ipv4[eni.vswitch], eni_id, count, prefixes, "Ipv4Prefix")
        eni.ipv4_prefixes = [*eni.ipv4_prefixes, *fresh]
        self._addresses_changed(eni, now, Assign(eni_id, tuple(fresh)))
        return fresh

    def unassign_ipv4(self, eni_id: str, now: float, addresses: Iterable[str], prefixes: Iterable[str] = ()) -> None:
        """Take secondary private addresses and prefixes away. All or none."""
        eni, gone = self._settled(eni_id), [Ip(a) for a in dict.fromkeys(addresses)]
        if eni.primary_ip in gone:
            raise errors.malformed("PrivateIpAddress", f"{eni.primary_ip} is the primary address")
        blocks = [Cidr(p) for p in dict.fromkeys(prefixes)]
        _check_held(gone, eni.ipv4)
        _check_held(blocks, eni.ipv4_prefixes)
        eni.ipv4 = [a for a in eni.ipv4 if a not in gone]
        eni.ipv4_prefixes = [p for p in eni.ipv4_prefixes if p not in blocks]
        self._ipv4[eni.vswitch].give_back(gone)
        self._ipv4[eni.vswitch].give_back_prefixes(blocks)
        self._addresses_changed(eni, now, Unassign(eni_id, (*gone, *blocks)))

    def assign_ipv6(self, eni_id: str, now: float, *, count: int = 0, addresses: Sequence[str] = ()) -> list[Ip]:
        """IPv6 addresses: `count` free ones, or exactly `addresses`. All or none."""
        eni = self._settled(eni_id)
        self._check_slots6(eni, len(addresses) or count)
        fresh = _some(self._space6(eni), eni_id, count, addresses, "Ipv6Address")
        eni.ipv6 = [*eni.ipv6, *fresh]
        self._addresses_changed(eni, now, Assign(eni_id, tuple(fresh)))
        return fresh

    def assign_ipv6_prefixes(
        self, eni_id: str, now: float, *, count: int = 0, prefixes: Sequence[str] = ()
    ) -> list[Cidr]:
        """Blocks of /80, each in the place of one address. All or none."""
        eni = self._settled(eni_id)
        self._check_slots6(eni, len(prefixes) or count)
        fresh = _prefixes(self._space6(eni), eni_id, count, prefixes, "Ipv6Prefix")
        eni.ipv6_prefixes = [*eni.ipv6_prefixes, *fresh]
        self._addresses_changed(eni, now, Assign(eni_id, tuple(fresh)))
        return fresh

    def unassign_ipv6(self, eni_id: str, now: float, addresses: Iterable[str], prefixes: Iterable[str] = ()) -> None:
        """Take IPv6 addresses and prefixes away. All or none."""
        eni, gone = self._settled(eni_id), [Ip(a) for a in dict.fromkeys(addresses)]
        blocks = [Cidr(p) for p in dict.fromkeys(prefixes)]
        _check_held(gone, eni.ipv6)
        _check_held(blocks, eni.ipv6_prefixes)
        eni.ipv6 = [a for a in eni.ipv6 if a not in gone]
        eni.ipv6_prefixes = [p for p in eni.ipv6_prefixes if p not in blocks]
        self._space6(eni).give_back(gone)
        self._space6(eni).give_back_prefixes(blocks)
        self._addresses_changed(eni, now, Unassign(eni_id, (*gone, *blocks)))

    def _addresses_changed(self, eni: Eni, now: float, effect: Assign | Unassign) -> None:
        if eni.status is EniStatus.IN_USE:
            if eni.type is not EniType.MEMBER:
                self._effects.append(effect)
            self._publish_later(eni, now)

    def _settled(self, eni_id: str) -> Eni:
        eni = self.eni(eni_id)
        if eni.status not in (EniStatus.AVAILABLE, EniStatus.IN_USE):
            raise errors.wrong_eni_state(eni_id, eni.status)
        return eni

    def _check_slots4(self, eni: Eni, wanted: int) -> None:
        limits = self._limits(eni)
        most = MAX_DETACHED_IPV4 if limits is None else limits.ipv4_per_eni
        if len(eni.ipv4) + len(eni.ipv4_prefixes) + wanted > most:
            raise errors.too_many_addresses(most)

    def _check_slots6(self, eni: Eni, wanted: int) -> None:
        limits = self._limits(eni)
        most = MAX_DETACHED_IPV4 if limits is None else limits.ipv6_per_eni
        if len(eni.ipv6) + len(eni.ipv6_prefixes) + wanted > most:
            raise errors.too_many_ipv6(most)

    def _limits(self, eni: Eni) -> InstanceType | None:
        return None if eni.instance is None else self.instance_type(self.instances[eni.instance].type)

    def _check_vswitch_quota(self, vswitch: str, wanted: int) -> None:
        most = self.quotas.private_ips_per_vswitch
        if most is not None and self._ipv4[vswitch].used + wanted > most:
            raise errors.quota_exceeded("PrivateIpAddress", f"private IP addresses in use in {vswitch}", most)

    def _space6(self, eni: Eni) -> AddressSpace:
        if eni.vswitch not in self._ipv6:
            raise errors.CloudError("InvalidVSwitchId.Ipv6NotTurnOn", "IPv6 is not turned on in the vSwitch.", 403)
        return self._ipv6[eni.vswitch]

    # ---- looking up: each raises the cloud's own "not found"

    def eni(self, eni_id: str) -> Eni:
        """By id."""
        if (eni := self.enis.get(eni_id)) is None:
            raise errors.eni_not_found(eni_id)
        return eni

    def enis_of(self, instance_id: str) -> list[Eni]:
        """In the order in which they were attached, the primary one first."""
        return [self.enis[e] for e in self._by_instance.get(instance_id, {})]

    def instance(self, instance_id: str) -> Instance:
        """By id."""
        if (instance := self.instances.get(instance_id)) is None:
            raise errors.instance_not_found(instance_id)
        return instance

    def instance_named(self, name: str) -> Instance | None:
        """By the node's name."""
        return next((i for i in self.instances.values() if i.name == name), None)

    def eni_at(self, address: str) -> Eni | None:
        """Whose this address is, by itself or in a prefix."""
        spaces = self._ipv6 if ":" in address else self._ipv4
        owners = (space.owner(address) for space in spaces.values())
        return next((self.enis[owner] for owner in owners if owner is not None), None)

    def instance_at(self, address: str) -> Instance | None:
        """The machine that a packet from this source address came from."""
        eni = self.eni_at(address)
        return None if eni is None or eni.instance is None else self.instances[eni.instance]

    def instance_type(self, name: str) -> InstanceType:
        """By name."""
        if (found := TYPES.get(name)) is None:
            raise errors.CloudError("InvalidInstanceType.ValueNotSupported", f"There is no instance type {name}.", 404)
        return found

    def vswitch(self, vswitch_id: str) -> VSwitch:
        """By id."""
        if (vswitch := self.vswitches.get(vswitch_id)) is None:
            raise errors.vswitch_not_found(vswitch_id)
        return vswitch

    def free_addresses(self, vswitch_id: str) -> int:
        """`AvailableIpAddressCount`."""
        return self._ipv4[vswitch_id].free

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


def _some(space: AddressSpace, owner: str, count: int, wanted: Sequence[str], parameter: str) -> list[Ip]:
    return space.claim(owner, wanted, parameter) if wanted else space.take(owner, count)


def _prefixes(space: AddressSpace, owner: str, count: int, wanted: Sequence[str], parameter: str) -> list[Cidr]:
    return space.claim_prefixes(owner, wanted, parameter) if wanted else space.take_prefixes(owner, count)


def _check_held(gone: Sequence[str], held: Sequence[str]) -> None:
    for address in gone:
        if address not in held:
            sentence = f"The IP address {address} is not assigned to the network interface."
            raise errors.CloudError("InvalidIp.IpUnassigned", sentence)
