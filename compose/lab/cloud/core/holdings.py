"""What an account holds, how to find it, and what is told to the world: the ground that the rules stand on."""

from collections.abc import Callable
from functools import partial

from compose.lab.cloud.core import errors
from compose.lab.cloud.core.addresses import AddressSpace
from compose.lab.cloud.core.calendar import Calendar
from compose.lab.cloud.core.catalogue import TYPES, InstanceType
from compose.lab.cloud.core.keys import Keys
from compose.lab.cloud.core.layout import Layout
from compose.lab.cloud.core.model import (
    AccessKey,
    DefineGroup,
    Delays,
    Effect,
    Eni,
    EniStatus,
    Instance,
    RouteEntry,
    Served,
    VSwitch,
)


class Holdings:
    """The state and no rule. `Addressing` and `Account` change it."""

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

    def _publish_later(self, eni: Eni, now: float) -> None:
        self.calendar.after(self.delays.metadata, now, partial(self._publish, eni))

    def _publish(self, eni: Eni) -> None:
        if eni.status is EniStatus.IN_USE:
            eni.served = Served(tuple(eni.ipv4), tuple(eni.ipv6), tuple(eni.ipv4_prefixes), tuple(eni.ipv6_prefixes))

    def new_id(self, prefix: str) -> str:
        """An id that nothing had before."""
        self._counter += 1
        return f"{prefix}lab{self._counter:08x}"

    def skip_ids_of(self, double: "Holdings") -> None:
        """Never give what a copy of this account has given meanwhile."""
        self._counter = max(self._counter, double._counter)

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

    def _limits(self, eni: Eni) -> InstanceType | None:
        return None if eni.instance is None else self.instance_type(self.instances[eni.instance].type)

    def _space6(self, eni: Eni) -> AddressSpace:
        if eni.vswitch not in self._ipv6:
            raise errors.CloudError("InvalidVSwitchId.Ipv6NotTurnOn", "IPv6 is not turned on in the vSwitch.", 403)
        return self._ipv6[eni.vswitch]
