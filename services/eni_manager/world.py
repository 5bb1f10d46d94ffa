"""What all keepers of a node work with: the outside, as small protocols, and how facts become durable and known."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from services.eni_manager.adapters.journal import Intent, Journal
from services.eni_manager.adapters.looks import Looks
from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.adapters.pacing import Urgency, urgency
from services.eni_manager.core.drift import CloudEni, Owner
from services.eni_manager.core.fleet import Fleet
from services.eni_manager.core.model import Eni, Fact, InstanceType, SlotsMarked, SlotState
from services.eni_manager.core.node import Node
from services.eni_manager.core.placement import VSwitch
from services.eni_manager.core.reactions import INHIBIT_S, Reaction
from services.eni_manager.core.wiring.vpc_route import Nat
from shared import log as logs
from shared.backoff import Backoff
from shared.eni_conf import EniConf
from shared.model import EniId, Ip, Mac, Subnet

log = logs.get(__name__)

RETRY_CAP_S = 60.0


class Cloud(Protocol):
    """ECS and VPC; adapters.ecs. Everything raises CloudError."""

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
    ) -> CloudEni: ...

    async def attach_eni(self, eni: EniId, instance: str, *, token: str) -> None: ...

    async def detach_eni(self, eni: EniId, instance: str) -> None: ...

    async def delete_eni(self, eni: EniId) -> None: ...

    async def describe_enis(
        self, *, ids: Iterable[EniId] = (), instance: str = "", name: str = "", tags: Mapping[str, str] | None = None
    ) -> list[CloudEni]: ...

    async def assign_ipv4(self, eni: EniId, count: int, *, token: str) -> list[Ip]: ...

    async def unassign_ipv4(self, eni: EniId, addresses: Sequence[Ip]) -> None: ...

    async def assign_ipv6(self, eni: EniId, count: int, *, token: str) -> list[Ip]: ...

    async def unassign_ipv6(self, eni: EniId, addresses: Sequence[Ip]) -> None: ...

    async def describe_instance_type(self, name: str) -> InstanceType: ...

    async def describe_vswitch(self, vswitch: str) -> VSwitch: ...


class EniMetadata(Protocol):
    """What the metadata service says of ENIs; adapters.imds. NotFound and Unavailable."""

    async def eni_id(self, mac: Mac) -> EniId: ...

    async def private_ipv4s(self, mac: Mac) -> frozenset[Ip]: ...

    async def ipv6s(self, mac: Mac) -> frozenset[Ip]: ...

    async def subnet4(self, mac: Mac) -> Subnet: ...

    async def subnet6(self, mac: Mac) -> Subnet | None: ...


class Uplink(Protocol):
    """A link of the node that is an ENI."""

    @property
    def name(self) -> str: ...


class Wires(Protocol):
    """The kernel's side of an ENI; dataplane.Dataplane. Unavailable, NotFound: no link has this MAC."""

    async def wait_for_link(self, mac: Mac, timeout_s: float) -> object: ...

    async def ensure_eni(self, mac: Mac, subnet4: Subnet | None, subnet6: Subnet | None) -> Uplink: ...

    async def set_nat(self, nat: Nat) -> None: ...


class Notice(msgspec.Struct, frozen=True):
    """Something that people should know."""

    at: float
    about: str
    what: str


class World:
    """See the module's docstring. `decide` wakes placement; `allocated` counts addresses got (0: refused).

    `dual`: every pool item is to be a pair of an IPv4 and an IPv6 address.
    """

    def __init__(
        self,
        *,
        cloud: Cloud,
        metadata: EniMetadata,
        wires: Wires,
        journal: Journal,
        fleet: Fleet,
        node: Node,
        conf: EniConf,
        backoffs: Mapping[str, Backoff],
        decide: Callable[[], None],
        allocated: Callable[[str, int], None] = lambda eni, count: None,
        device_wait_s: float = 10.0,
        clock: Callable[[], float] = time.time,
        dual: bool = False,
    ) -> None:
        self.cloud, self.metadata, self.wires, self.journal = cloud, metadata, wires, journal
        self.fleet, self.node, self.conf, self.backoffs = fleet, node, conf, backoffs
        self.decide, self.allocated, self.device_wait_s, self.clock = decide, allocated, device_wait_s, clock
        self.dual = fleet.dual = dual
        self.owner: Owner = node.owner(conf)
        self.notices: deque[Notice] = deque(maxlen=100)
        self._looks = Looks(lambda ids: cloud.describe_enis(ids=ids))

    async def record(self, facts: Iterable[Fact], *, ends: Intent | None = None, outcome: str = "ok") -> None:
        """Durable first, then memory."""
        facts = tuple(facts)
        await self.journal.record(facts, now=self.clock(), ends=ends, outcome=outcome)
        self.fleet.apply(facts)

    async def look(self, eni_id: EniId) -> CloudEni | None:
        """How the cloud lists an ENI now; None: it does not. Raises CloudError."""
        return await self._looks.look(eni_id)

    async def served(self, eni: Eni) -> frozenset[Ip]:
        """The items of an ENI that the metadata service lists, both addresses of each in dual stack.

        Raises NotFound and Unavailable.
        """
        assert eni.mac is not None
        four = await self.metadata.private_ipv4s(eni.mac)
        if not self.dual:
            return frozenset(item for item in eni.slots if item in four)
        six = await self.metadata.ipv6s(eni.mac)
        return frozenset(item for item, slot in eni.slots.items() if item in four and slot.ipv6 in six)

    def bringing(self) -> AbstractContextManager[None]:
        """Calls inside bring addresses: while pods wait, they go before all others."""
        return urgency(Urgency.POD_WAITS if self.fleet.waiting else Urgency.BACKGROUND)

    async def give_back(self, items: Sequence[Ip], *, of: str | None = None) -> tuple[list[Ip], dict[Ip, str]]:
        """Mark items as returning, but those that an attachment uses: those marked, and why not the others.

        `of`: as items of this ENI only.
        """
        accepted, refused = await self.journal.give_back(items, of=of)
        enis = [eni for eni in self.fleet.enis.values() if of in (None, eni.name)]
        holders = {eni.name for eni in enis if not eni.slots.keys().isdisjoint(accepted)}
        if holders:
            every = tuple(SlotState)
            self.fleet.apply(
                SlotsMarked(name, tuple(accepted), to=SlotState.RETURNING, frm=every) for name in sorted(holders)
            )
        return accepted, refused

    async def users(self, eni_id: EniId) -> str:
        """The pods that are attached with an address of the ENI, in words; empty: none."""
        wired = await self.journal.attachments()
        return ", ".join(sorted(str(one.lease.pod) for one in wired if one.lease.eni_id == eni_id))

    def inhibit(self, subject: str, error: CloudError) -> None:
        """What was refused for good is not asked for again for a while."""
        seconds = INHIBIT_S.get(error.reaction, INHIBIT_S[Reaction.REFUSED])
        self.fleet.blocks.put(subject, until=self.clock() + seconds, why=_reason(subject, error))
        self.notice(subject, error.message)

    def notice(self, about: str, what: str) -> None:
        """Tell people: log and /state."""
        self.notices.append(Notice(self.clock(), about, what))
        log.warning("notice", about=about, what=what)

    def pauses(self) -> Iterator[float]:
        """Between attempts that fail in passing, without end."""
        default = self.backoffs["default"]
        return Backoff(default.initial_s, default.factor, default.jitter, cap_s=RETRY_CAP_S).delays(random.random)


def _reason(subject: str, error: CloudError) -> str:
    match error.reaction:
        case Reaction.NO_ADDRESSES:
            return f"vSwitch {subject} has no free addresses; ENIs that are in it cannot grow"
        case Reaction.NO_IPV6:
            return (
                f"{subject}: its vSwitch has no IPv6 range, which ip_stack dual needs: turn IPv6 on in it, or "
                f"configure another vSwitch or ip_stack ipv4 ({error.message})"
            )
        case Reaction.NO_ENI_SLOT:
            return "the instance cannot take one more ENI"
        case Reaction.GROUP_FULL:
            return f"the security group is full, use an enterprise security group: {error.message}"
        case Reaction.DENIED:
            return f"the cloud denies us a permission: {error.message}"
        case _:
            return error.message
