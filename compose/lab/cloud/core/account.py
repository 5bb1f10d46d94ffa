"""The state of one account in one region and one VPC: the cloud's truth.

Everything here is synchronous and takes the time as a value. A change that takes the cloud time is put on a
calendar and made by `advance`; a change that packets must feel is put in a list of effects, which whoever
holds the fabric takes with `take_effects` and carries out in order, answering with `plugged`/`unplugged`:

    action ─► Account ─► answer
                 │ ▲
         effects ▼ │ plugged, unplugged, advance(now)
                fabric
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

import msgspec

from compose.lab.cloud.core import errors
from compose.lab.cloud.core.addresses import AddressSpace
from compose.lab.cloud.core.catalogue import TYPES, InstanceType
from compose.lab.cloud.core.keys import Keys
from compose.lab.cloud.core.model import (
    AccessKey,
    AddNode,
    Assign,
    Delays,
    Effect,
    Eni,
    EniStatus,
    EniType,
    Instance,
    Plug,
    RemoveNode,
    SecurityGroup,
    Served,
    Tag,
    Unassign,
    Unplug,
    VSwitch,
)
from shared.model import Ip, Mac

MAX_DETACHED_IPV4 = 50
"""Private IPv4 addresses of a network interface that no instance has yet (API reference)."""


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the account lives and what it was born with."""

    region: str = "cn-lab"
    vpc: str = "vpc-lab"
    vpc_cidr: str = "192.168.0.0/16"
    vswitches: tuple[VSwitch, ...] = (
        VSwitch("vsw-lab-a", "cn-lab-a", "192.168.0.0/20", "2408:4005:3cd:1000::/64"),
        VSwitch("vsw-lab-b", "cn-lab-b", "192.168.16.0/20", "2408:4005:3cd:1001::/64"),
    )
    security_groups: tuple[SecurityGroup, ...] = (SecurityGroup("sg-lab", "lab"),)
    role: str = "LabNodeRole"
    """The RAM role that every instance has."""


class Step(StrEnum):
    """What the calendar can bring to a network interface."""

    CREATED = "created"
    ATTACH = "attach"
    DETACH = "detach"
    DELETED = "deleted"
    PUBLISH = "publish"


class Account:
    """Instances, network interfaces, addresses and keys, and the rules that bind them."""

    def __init__(
        self,
        layout: Layout | None = None,
        *,
        delays: Delays | None = None,
        random: Callable[[], float] = lambda: 0.5,
        max_enis: int = 100_000,
    ) -> None:
        """`random` gives numbers in [0, 1) for the delays; `max_enis` is the account's quota."""
        self.layout = layout or Layout()
        self.delays = delays or Delays()
        self.vswitches = {v.id: v for v in self.layout.vswitches}
        self.security_groups = {g.id: g for g in self.layout.security_groups}
        self.enis: dict[str, Eni] = {}
        self.instances: dict[str, Instance] = {}
        self.keys = Keys()
        self.max_enis = max_enis
        self._ipv4 = {v.id: AddressSpace(v.id, v.cidr) for v in self.layout.vswitches}
        self._ipv6 = {v.id: AddressSpace(v.id, v.ipv6_cidr) for v in self.layout.vswitches if v.ipv6_cidr}
        self._by_instance: dict[str, dict[str, None]] = {}
        self._calendar: list[tuple[float, int, Step, str]] = []
        self._effects: list[Effect] = []
        self._random = random
        self._counter = 0

    def add_key(self, key: AccessKey) -> None:
        """Let its holder call."""
        self.keys.add(key)

    # ---- time and the world

    @property
    def next_due(self) -> float | None:
        """When `advance` has something to do."""
        return self._calendar[0][0] if self._calendar else None

    def advance(self, now: float) -> None:
        """Make every change whose time has come."""
        while self._calendar and self._calendar[0][0] <= now:
            _, _, step, eni_id = heapq.heappop(self._calendar)
            if (eni := self.enis.get(eni_id)) is not None:
                self._take_step(step, eni)

    def _take_step(self, step: Step, eni: Eni) -> None:
        match step, eni.status:
            case Step.CREATED, EniStatus.CREATING:
                eni.status = EniStatus.AVAILABLE
            case Step.ATTACH, EniStatus.ATTACHING:
                self._plug(eni)
            case Step.DETACH, EniStatus.DETACHING:
                self._effects.append(Unplug(eni.id))
            case Step.DELETED, EniStatus.DELETING:
                self._forget(eni)
            case Step.PUBLISH, EniStatus.IN_USE:
                eni.served = Served(tuple(eni.ipv4), tuple(eni.ipv6))
            case _:
                pass  # the instance that it was for has gone meanwhile

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

    def _later(self, step: Step, eni: Eni, now: float, delay: tuple[float, float]) -> None:
        least, most = delay
        wait = least + (most - least) * self._random()
        if wait <= 0:
            self._take_step(step, eni)
        else:
            self._counter += 1
            heapq.heappush(self._calendar, (now + wait, self._counter, step, eni.id))

    def _publish_later(self, eni: Eni, now: float) -> None:
        self._later(Step.PUBLISH, eni, now, self.delays.metadata)

    def _new_id(self, prefix: str) -> str:
        self._counter += 1
        return f"{prefix}lab{self._counter:08x}"

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
        instance_id = self._new_id("i-")
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

    def _plug(self, eni: Eni) -> None:
        assert eni.instance is not None
        node = self.instances[eni.instance].name
        primary = eni.type is EniType.PRIMARY
        self._effects.append(Plug(eni.id, eni.mac, eni.vswitch, node, tuple(eni.ipv4), primary))

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
        for group in security_groups:
            if group not in self.security_groups:
                raise errors.security_group_not_found(group)
        if len(self.enis) >= self.max_enis:
            raise errors.CloudError(
                "QuotaExceeded.Eni", f"The number of network interfaces exceeds the quota ({self.max_enis}).", 403
            )
        extra = len(addresses) or secondary_count
        if 1 + extra > MAX_DETACHED_IPV4:
            raise errors.too_many_addresses(MAX_DETACHED_IPV4)
        if (free := self._ipv4[vswitch].free) < 1 + extra:
            raise errors.vswitch_exhausted(vswitch, free, 1 + extra)
        eni = self._new_eni(kind, subnet, security_groups, now, primary_ip)
        try:
            eni.ipv4 += self._ipv4[vswitch].claim(eni.id, addresses, "PrivateIpAddress")
            eni.ipv4 += self._ipv4[vswitch].take(eni.id, 0 if addresses else secondary_count)
            eni.ipv6 = self._space6(eni).take(eni.id, ipv6_count) if ipv6_count else []
        except errors.CloudError:
            self._forget(eni)
            raise
        eni.name, eni.description, eni.tags, eni.resource_group = name, description, list(tags), resource_group
        eni.delete_on_release, eni.source_dest_check = delete_on_release, source_dest_check
        eni.traffic_mode = traffic_mode
        self._later(Step.CREATED, eni, now, self.delays.create)
        return eni

    def _new_eni(
        self, kind: EniType, subnet: VSwitch, groups: Sequence[str], now: float, primary_ip: str | None = None
    ) -> Eni:
        eni_id = self._new_id("eni-")
        space = self._ipv4[subnet.id]
        ipv4 = space.claim(eni_id, [primary_ip], "PrimaryIpAddress") if primary_ip else space.take(eni_id, 1)
        octets = (0x00163E_000000 | self._counter & 0xFFFFFF).to_bytes(6, "big")
        mac = Mac(octets.hex(":"))
        self.enis[eni_id] = eni = Eni(eni_id, mac, kind, subnet.id, subnet.zone, ipv4, list(groups), now)
        return eni

    def attach_eni(self, eni_id: str, instance_id: str, now: float) -> None:
        """Begin to put it into the machine."""
        eni, instance = self.eni(eni_id), self.instance(instance_id)
        if eni.status is not EniStatus.AVAILABLE:
            raise errors.wrong_eni_state(eni_id, eni.status)
        if eni.zone != instance.zone:
            sentence = f"The network interface is in zone {eni.zone}, the instance in {instance.zone}."
            raise errors.CloudError("InvalidOperation.AvailabilityZoneMismatch", sentence, 403)
        limits = self.instance_type(instance.type)
        if len(self._by_instance[instance_id]) >= limits.eni_quantity:
            sentence = f"The number of network interfaces exceeds the limit of {limits.name} ({limits.eni_quantity})."
            raise errors.CloudError("EniPerInstanceLimitExceeded", sentence, 403)
        if len(eni.ipv4) > limits.ipv4_per_eni:
            raise errors.too_many_addresses(limits.ipv4_per_eni)
        if len(eni.ipv6) > limits.ipv6_per_eni:
            raise errors.too_many_ipv6(limits.ipv6_per_eni)
        self._join_instance(eni, instance_id)
        eni.status = EniStatus.ATTACHING
        self._later(Step.ATTACH, eni, now, self.delays.attach)

    def detach_eni(self, eni_id: str, instance_id: str, now: float) -> None:
        """Begin to take it out of the machine."""
        eni, instance = self.eni(eni_id), self.instance(instance_id)
        if eni.type is EniType.PRIMARY:
            raise errors.CloudError(
                "InvalidOperation.DetachPrimaryEniNotAllowed", "Detaching the primary network interface is not allowed."
            )
        if eni.status is not EniStatus.IN_USE or eni.instance != instance.id:
            raise errors.wrong_eni_state(eni_id, eni.status)
        eni.status, eni.served = EniStatus.DETACHING, None
        self._later(Step.DETACH, eni, now, self.delays.detach)

    def delete_eni(self, eni_id: str, now: float) -> None:
        """Begin to delete it."""
        eni = self.eni(eni_id)
        if eni.status is EniStatus.DELETING:
            return
        if eni.status is not EniStatus.AVAILABLE:
            raise errors.wrong_eni_state(eni_id, eni.status)
        eni.status = EniStatus.DELETING
        self._later(Step.DELETED, eni, now, self.delays.delete)

    def _forget(self, eni: Eni) -> None:
        self._ipv4[eni.vswitch].give_back(eni.ipv4)
        if eni.ipv6:
            self._ipv6[eni.vswitch].give_back(eni.ipv6)
        if eni.instance is not None:
            self._by_instance.get(eni.instance, {}).pop(eni.id, None)
        del self.enis[eni.id]

    # ---- addresses

    def assign_ipv4(self, eni_id: str, now: float, *, count: int = 0, addresses: Sequence[str] = ()) -> list[Ip]:
        """Secondary private addresses: `count` free ones, or exactly `addresses`. All or none."""
        eni = self._settled(eni_id)
        limit = self._limit(eni, "ipv4_per_eni", MAX_DETACHED_IPV4)
        if len(eni.ipv4) + (len(addresses) or count) > limit:
            raise errors.too_many_addresses(limit)
        space = self._ipv4[eni.vswitch]
        fresh = space.claim(eni_id, addresses, "PrivateIpAddress") if addresses else space.take(eni_id, count)
        eni.ipv4.extend(fresh)
        self._addresses_changed(eni, now, Assign(eni_id, tuple(fresh)))
        return fresh

    def unassign_ipv4(self, eni_id: str, now: float, addresses: Iterable[str]) -> None:
        """Take secondary private addresses away. All or none."""
        eni, gone = self._settled(eni_id), [Ip(a) for a in dict.fromkeys(addresses)]
        for address in gone:
            if address == eni.primary_ip:
                raise errors.malformed("PrivateIpAddress", f"{address} is the primary address")
            if address not in eni.ipv4:
                sentence = f"The IP address {address} is not assigned to the network interface."
                raise errors.CloudError("InvalidIp.IpUnassigned", sentence)
        eni.ipv4 = [a for a in eni.ipv4 if a not in gone]
        self._ipv4[eni.vswitch].give_back(gone)
        self._addresses_changed(eni, now, Unassign(eni_id, tuple(gone)))

    def assign_ipv6(self, eni_id: str, now: float, *, count: int = 0, addresses: Sequence[str] = ()) -> list[Ip]:
        """IPv6 addresses: `count` free ones, or exactly `addresses`. All or none."""
        eni = self._settled(eni_id)
        limit = self._limit(eni, "ipv6_per_eni", MAX_DETACHED_IPV4)
        if len(eni.ipv6) + (len(addresses) or count) > limit:
            raise errors.too_many_ipv6(limit)
        space = self._space6(eni)
        fresh = space.claim(eni_id, addresses, "Ipv6Address") if addresses else space.take(eni_id, count)
        eni.ipv6 = [*eni.ipv6, *fresh]
        self._addresses_changed(eni, now, None)
        return fresh

    def unassign_ipv6(self, eni_id: str, now: float, addresses: Iterable[str]) -> None:
        """Take IPv6 addresses away. All or none."""
        eni, gone = self._settled(eni_id), [Ip(a) for a in dict.fromkeys(addresses)]
        for address in gone:
            if address not in eni.ipv6:
                sentence = f"The IP address {address} is not assigned to the network interface."
                raise errors.CloudError("InvalidIp.IpUnassigned", sentence)
        eni.ipv6 = [a for a in eni.ipv6 if a not in gone]
        self._space6(eni).give_back(gone)
        self._addresses_changed(eni, now, None)

    def _addresses_changed(self, eni: Eni, now: float, effect: Assign | Unassign | None) -> None:
        if eni.status is EniStatus.IN_USE:
            if effect is not None:
                self._effects.append(effect)
            self._publish_later(eni, now)

    def _settled(self, eni_id: str) -> Eni:
        eni = self.eni(eni_id)
        if eni.status not in (EniStatus.AVAILABLE, EniStatus.IN_USE):
            raise errors.wrong_eni_state(eni_id, eni.status)
        return eni

    def _limit(self, eni: Eni, attribute: str, detached: int) -> int:
        if eni.instance is None:
            return detached
        limit: int = getattr(self.instance_type(self.instances[eni.instance].type), attribute)
        return limit

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
        """Whose this private IPv4 address is."""
        owners = (space.owner(address) for space in self._ipv4.values())
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
            for address in eni.ipv4:
                assert address not in seen, f"{address} is on {seen[address]} and on {eni.id}"
                assert space.owner(address) == eni.id, f"{address} of {eni.id} is owned by {space.owner(address)}"
                seen[address] = eni.id
            attached = eni.status in (EniStatus.ATTACHING, EniStatus.IN_USE, EniStatus.DETACHING)
            assert attached == (eni.instance is not None), f"{eni.id} is {eni.status} and has {eni.instance}"
            if eni.instance is not None:
                assert eni.id in self._by_instance[eni.instance]
        for vswitch in self.vswitches.values():
            mine = sum(len(e.ipv4) for e in self.enis.values() if e.vswitch == vswitch.id)
            total = vswitch.network.num_addresses - 4
            assert self.free_addresses(vswitch.id) == total - mine, f"{vswitch.id} has lost addresses"
        for instance in self.instances.values():
            limits = self.instance_type(instance.type)
            mine_enis = self.enis_of(instance.id)
            assert len(mine_enis) <= limits.eni_quantity
            assert all(len(e.ipv4) <= limits.ipv4_per_eni for e in mine_enis)
