"""A model of the cloud, small enough to be believed: one instance, ENIs, addresses, an asynchronous and moody API.

It keeps the promises that the real one makes and no more: client tokens, attachment that takes a while, metadata that
lags, listings that may be old. People delete and add things behind our back. `Handle` is how one life of eni_manager
reaches it; the handle of a life that has ended reaches nothing.
"""

import asyncio
import copy
import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.core.drift import CloudAddress, CloudEni
from services.eni_manager.core.model import InstanceType
from services.eni_manager.core.placement import VSwitch
from services.eni_manager.core.reactions import NO_ANSWER
from shared.errors import NotFound, Unavailable
from shared.model import Cidr, EniId, Ip, Mac, Subnet

INSTANCE = "i-1"
KIND = InstanceType("ecs.model", enis=4, ipv4_per_eni=4, ipv6_per_eni=4)
"""Three ENIs for pods, four addresses (or pairs) each."""
VSWITCH_SIZE = 24
SNAPSHOTS = 8

BEFELL: Counter[str] = Counter()
"""What happened to calls and ADDs, how often, over all lives of a run: a test that never meets it tests nothing."""


@dataclass
class ModelEni:
    """One ENI as the cloud has it."""

    id: EniId
    mac: Mac
    name: str
    vswitch: str
    tags: dict[str, str]
    ips: list[Ip]
    ips6: list[Ip] = field(default_factory=list)
    status: str = "Creating"
    instance: str = ""
    changes_at: float = 0.0
    """When a state in the middle ends."""
    shown_at: dict[Ip, float] = field(default_factory=dict)
    """When the metadata service begins to list an address."""

    def listed(self) -> CloudEni:
        return CloudEni(
            self.id,
            self.mac,
            self.status,
            name=self.name,
            instance=self.instance,
            vswitch=self.vswitch,
            zone="z",
            ipv4=tuple(CloudAddress(ip, number == 0) for number, ip in enumerate(self.ips)),
            ipv6=tuple(self.ips6),
            tags=dict(self.tags),
        )


class Uplink(NamedTuple):
    name: str


class ModelCloud:
    """Its state, and what people and the weather may do to it. `faults`: what befalls the next calls that change it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.enis: dict[EniId, ModelEni] = {}
        self.free = {name: [Ip(f"10.{zone}.0.{n}") for n in range(1, VSWITCH_SIZE)] for zone, name in enumerate("ab")}
        # More than a vSwitch can need, and few enough to come round soon.
        self.free6 = {name: [Ip(f"fd0{zone}::{n:x}") for n in range(1, 40)] for zone, name in enumerate("ab")}
        self.hoards: dict[str, list[Ip]] = {name: [] for name in self.free}
        """What others have of each vSwitch, beyond what is free."""
        self.taken: set[Ip] = set()
        """Addresses that people took away, which whoever had them lost."""
        self.faults: deque[str] = deque()
        self.stale_listings = 0
        self.stale_metadata = 0
        self.metadata_was_old = False
        """Since the beginning, once: it may have shown what it had shown before."""
        self.calls: dict[str, int] = {}
        self._made_for: dict[str, EniId] = {}
        self._assigned: dict[str, list[Ip]] = {}
        """What came of the calls with each client token."""
        self._listings: deque[list[CloudEni]] = deque(maxlen=SNAPSHOTS)
        self._metadata: dict[Mac, frozenset[Ip]] = {}
        self._made = 0

    # ---- time

    def settle(self, now: float) -> None:
        """What was under way and is due has happened."""
        for eni in list(self.enis.values()):
            if eni.changes_at > now:
                continue
            match eni.status:
                case "Creating" | "Detaching":
                    eni.status, eni.instance = "Available", ""
                case "Attaching":
                    eni.status = "InUse"
                case "Deleting":
                    self._remove(eni)

    def snapshot(self) -> None:
        """Remember how things are, for listings that come too late."""
        self._listings.append([eni.listed() for eni in self.enis.values()])

    # ---- people

    def delete_outside(self, eni_id: EniId) -> None:
        """Somebody forces an ENI off and deletes it."""
        self.taken |= {*self.enis[eni_id].ips, *self.enis[eni_id].ips6}
        self._remove(self.enis[eni_id])

    def unassign_outside(self, eni_id: EniId, ip: Ip) -> None:
        eni = self.enis[eni_id]
        eni.ips.remove(ip)
        self.free[eni.vswitch].append(ip)
        self.taken.add(ip)

    def unassign6_outside(self, eni_id: EniId, ip: Ip) -> None:
        self._take6(self.enis[eni_id], [ip])
        self.taken.add(ip)

    def assign6_outside(self, eni_id: EniId, back: Ip | None = None) -> None:
        """Somebody assigns an IPv6 address: `back`, where it is free, else any."""
        eni = self.enis[eni_id]
        if len(eni.ips6) < KIND.ipv6_per_eni:
            free = self.free6[eni.vswitch]
            if back in free:
                free.remove(back)
                free.insert(0, back)
            self._assign6(eni, 1, 0.0)

    def assign_outside(self, eni_id: EniId) -> None:
        eni = self.enis[eni_id]
        if len(eni.ips) < KIND.ipv4_per_eni and self.free[eni.vswitch]:
            self._assign(eni, 1, 0.0)

    def foreign(self) -> None:
        """Somebody else's ENI takes a place on the instance."""
        if self.attached() < KIND.enis - 1 and self.free["b"]:
            eni = self._new("foreign", "b", 1, {"creator": "someone"}, 0.0)
            eni.status, eni.instance = "InUse", INSTANCE

    def attached(self) -> int:
        return sum(eni.instance == INSTANCE for eni in self.enis.values())

    def ours(self) -> list[ModelEni]:
        return [eni for eni in self.enis.values() if eni.tags.get("creator") == "terway"]

    def here(self) -> dict[Ip, EniId]:
        """Every address that packets for this instance may have."""
        return {ip: eni.id for eni in self.enis.values() if eni.instance == INSTANCE for ip in eni.ips}

    # ---- what calls do

    def create(
        self, token: str, name: str, vswitch: str, count: int, tags: Mapping[str, str], now: float, count6: int = 0
    ) -> CloudEni:
        if token in self._made_for:
            return self._find("CreateNetworkInterface", self._made_for[token]).listed()
        if len(self.free[vswitch]) < count:
            BEFELL["IpNotEnough"] += 1
            raise refusal("CreateNetworkInterface", "InvalidVSwitchId.IpNotEnough")
        eni = self._new(name, vswitch, count, tags, now)
        self._assign6(eni, count6, now)
        self._made_for[token] = eni.id
        return eni.listed()

    def attach(self, eni_id: EniId, now: float) -> None:
        eni = self._find("AttachNetworkInterface", eni_id)
        if eni.status != "Available":
            if eni.instance == INSTANCE and eni.status == "Attaching":
                return
            raise refusal("AttachNetworkInterface", "InvalidOperation.InvalidEniState")
        if self.attached() >= KIND.enis - 1:
            raise refusal("AttachNetworkInterface", "EniPerInstanceLimitExceeded")
        eni.status, eni.instance, eni.changes_at = "Attaching", INSTANCE, now + self.chance.uniform(1, 8)
        eni.shown_at = dict.fromkeys([*eni.ips, *eni.ips6], eni.changes_at + self.chance.uniform(0, 3))

    def detach(self, eni_id: EniId, now: float) -> None:
        eni = self._find("DetachNetworkInterface", eni_id)
        if eni.status != "InUse":
            raise refusal("DetachNetworkInterface", "InvalidOperation.InvalidEniState")
        eni.status, eni.changes_at = "Detaching", now + self.chance.uniform(1, 5)

    def delete(self, eni_id: EniId, now: float) -> None:
        eni = self._find("DeleteNetworkInterface", eni_id)
        if eni.status not in ("Available", "Deleting"):
            raise refusal("DeleteNetworkInterface", "InvalidOperation.InvalidEniState")
        eni.status, eni.changes_at = "Deleting", now + self.chance.uniform(0, 3)

    def assign(self, token: str, eni_id: EniId, count: int, now: float) -> list[Ip]:
        if token in self._assigned:
            return list(self._assigned[token])
        eni = self._find("AssignPrivateIpAddresses", eni_id)
        if eni.status != "InUse":
            raise refusal("AssignPrivateIpAddresses", "InvalidOperation.InvalidEniState")
        if len(eni.ips) + count > KIND.ipv4_per_eni:
            raise refusal("AssignPrivateIpAddresses", "InvalidOperation.Ipv4CountExceeded")
        if len(self.free[eni.vswitch]) < count:
            BEFELL["IpNotEnough"] += 1
            raise refusal("AssignPrivateIpAddresses", "InvalidVSwitchId.IpNotEnough")
        fresh = self._assigned[token] = self._assign(eni, count, now)
        return list(fresh)

    def unassign(self, eni_id: EniId, ips: Sequence[Ip]) -> None:
        eni = self._find("UnassignPrivateIpAddresses", eni_id)
        if not set(ips) <= set(eni.ips):
            raise refusal("UnassignPrivateIpAddresses", "InvalidIp.IpUnassigned")
        if eni.ips[0] in ips:
            raise refusal("UnassignPrivateIpAddresses", "InvalidIp.Primary")
        for ip in ips:
            eni.ips.remove(ip)
            self.free[eni.vswitch].append(ip)

    def assign6(self, token: str, eni_id: EniId, count: int, now: float) -> list[Ip]:
        if token in self._assigned:
            return list(self._assigned[token])
        eni = self._find("AssignIpv6Addresses", eni_id)
        if eni.status != "InUse":
            raise refusal("AssignIpv6Addresses", "InvalidOperation.InvalidEniState")
        if len(eni.ips6) + count > KIND.ipv6_per_eni:
            raise refusal("AssignIpv6Addresses", "InvalidOperation.Ipv6CountExceeded")
        fresh = self._assigned[token] = self._assign6(eni, count, now)
        return list(fresh)

    def unassign6(self, eni_id: EniId, ips: Sequence[Ip]) -> None:
        eni = self._find("UnassignIpv6Addresses", eni_id)
        if not set(ips) <= set(eni.ips6):
            raise refusal("UnassignIpv6Addresses", "InvalidIp.IpUnassigned")
        self._take6(eni, ips)

    def listing(self) -> list[CloudEni]:
        if self.stale_listings and self._listings:
            self.stale_listings -= 1
            BEFELL["old listing"] += 1
            return copy.copy(self._listings[0])
        return [eni.listed() for eni in self.enis.values()]

    def metadata(self, mac: Mac, now: float) -> tuple[ModelEni, frozenset[Ip]]:
        """The ENI of a MAC and its addresses, as the metadata service has them."""
        eni = next((eni for eni in self.enis.values() if eni.mac == mac and eni.instance == INSTANCE), None)
        if eni is None or eni.status != "InUse":
            raise NotFound(f"macs/{mac}")
        if self.stale_metadata and mac in self._metadata:
            self.stale_metadata -= 1
            self.metadata_was_old = True
            BEFELL["old metadata"] += 1
            return eni, self._metadata[mac]
        self._metadata[mac] = frozenset(ip for ip in (*eni.ips, *eni.ips6) if eni.shown_at.get(ip, 0.0) <= now)
        return eni, self._metadata[mac]

    def _new(self, name: str, vswitch: str, count: int, tags: Mapping[str, str], now: float) -> ModelEni:
        self._made += 1
        eni_id, mac = EniId(f"eni-{self._made:04}"), Mac(f"00:16:3e:00:{self._made // 256:02x}:{self._made % 256:02x}")
        eni = self.enis[eni_id] = ModelEni(eni_id, mac, name, vswitch, dict(tags), [], changes_at=now + 0.5)
        self._assign(eni, count, now)
        return eni

    def _assign(self, eni: ModelEni, count: int, now: float) -> list[Ip]:
        """The longest unused ones, as the cloud does; but a small vSwitch comes round soon."""
        fresh = [self.free[eni.vswitch].pop(0) for _ in range(count)]
        eni.ips += fresh
        eni.shown_at |= {ip: now + self.chance.uniform(0, 3) for ip in fresh}  # not all at the same moment
        return fresh

    def _assign6(self, eni: ModelEni, count: int, now: float) -> list[Ip]:
        fresh = [self.free6[eni.vswitch].pop(0) for _ in range(count)]
        eni.ips6 += fresh
        eni.shown_at |= dict.fromkeys(fresh, now + self.chance.uniform(0, 3))
        return fresh

    def _take6(self, eni: ModelEni, ips: Iterable[Ip]) -> None:
        for ip in ips:
            eni.ips6.remove(ip)
            self.free6[eni.vswitch].append(ip)

    def _remove(self, eni: ModelEni) -> None:
        del self.enis[eni.id]
        self.free6[eni.vswitch] += eni.ips6
        self.free[eni.vswitch] += eni.ips

    def _find(self, action: str, eni_id: EniId) -> ModelEni:
        if eni_id not in self.enis:
            raise refusal(action, "InvalidEniId.NotFound")
        return self.enis[eni_id]


def refusal(action: str, code: str) -> CloudError:
    return CloudError(action=action, cloud_code=code, message="says the model", status=400)


class Handle:
    """One life's way to cloud, metadata and kernel. Each call takes a while before and after its effect."""

    def __init__(self, cloud: ModelCloud) -> None:
        self._cloud = cloud
        self.dead = False

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
        async with _Call(self, "CreateNetworkInterface") as call:
            return self._cloud.create(token, name, vswitch, addresses, tags, call.now, ipv6)

    async def attach_eni(self, eni: EniId, instance: str, *, token: str) -> None:
        async with _Call(self, "AttachNetworkInterface") as call:
            self._cloud.attach(eni, call.now)

    async def detach_eni(self, eni: EniId, instance: str) -> None:
        async with _Call(self, "DetachNetworkInterface") as call:
            self._cloud.detach(eni, call.now)

    async def delete_eni(self, eni: EniId) -> None:
        async with _Call(self, "DeleteNetworkInterface") as call:
            self._cloud.delete(eni, call.now)

    async def assign_ipv4(self, eni: EniId, count: int, *, token: str) -> list[Ip]:
        async with _Call(self, "AssignPrivateIpAddresses") as call:
            return self._cloud.assign(token, eni, count, call.now)

    async def unassign_ipv4(self, eni: EniId, addresses: Sequence[Ip]) -> None:
        async with _Call(self, "UnassignPrivateIpAddresses"):
            self._cloud.unassign(eni, addresses)

    async def assign_ipv6(self, eni: EniId, count: int, *, token: str) -> list[Ip]:
        async with _Call(self, "AssignIpv6Addresses") as call:
            return self._cloud.assign6(token, eni, count, call.now)

    async def unassign_ipv6(self, eni: EniId, addresses: Sequence[Ip]) -> None:
        async with _Call(self, "UnassignIpv6Addresses"):
            self._cloud.unassign6(eni, addresses)

    async def describe_enis(
        self, *, ids: Iterable[EniId] = (), instance: str = "", name: str = "", tags: Mapping[str, str] | None = None
    ) -> list[CloudEni]:
        wanted = set(ids)
        async with _Call(self, "DescribeNetworkInterfaces", changes=False):
            listing = self._cloud.listing()
        return [
            eni
            for eni in listing
            if (not wanted or eni.id in wanted)
            and (not instance or eni.instance == instance)
            and (not name or eni.name == name)
            and (tags or {}).items() <= eni.tags.items()
        ]

    async def describe_instance_type(self, name: str) -> InstanceType:
        return KIND

    async def describe_vswitch(self, vswitch: str) -> VSwitch:
        async with _Call(self, "DescribeVSwitches", changes=False):
            return VSwitch(vswitch, len(self._cloud.free[vswitch]))

    # ---- metadata and kernel

    async def eni_id(self, mac: Mac) -> EniId:
        return (await self._metadata(mac))[0].id

    async def private_ipv4s(self, mac: Mac) -> frozenset[Ip]:
        return frozenset(ip for ip in (await self._metadata(mac))[1] if ":" not in ip)

    async def ipv6s(self, mac: Mac) -> frozenset[Ip]:
        return frozenset(ip for ip in (await self._metadata(mac))[1] if ":" in ip)

    async def subnet4(self, mac: Mac) -> Subnet:
        return Subnet(Cidr("10.0.0.0/8"), Ip("10.255.255.253"))

    async def subnet6(self, mac: Mac) -> Subnet | None:
        return None

    async def wait_for_link(self, mac: Mac, timeout_s: float) -> object:
        await asyncio.sleep(0.01)
        self._cloud.settle(asyncio.get_running_loop().time())
        if not any(eni.mac == mac and eni.status == "InUse" for eni in self._cloud.enis.values()):
            await asyncio.sleep(timeout_s)
            raise Unavailable(f"no link with MAC {mac}")
        return mac

    async def ensure_eni(self, mac: Mac, subnet4: Subnet | None, subnet6: Subnet | None) -> Uplink:
        await asyncio.sleep(0.01)
        return Uplink("eth1")

    async def _metadata(self, mac: Mac) -> tuple[ModelEni, frozenset[Ip]]:
        async with _Call(self, "metadata", changes=False) as call:
            return self._cloud.metadata(mac, call.now)


class _Call:
    """Time before and after the effect, and what the weather makes of the call."""

    def __init__(self, handle: Handle, action: str, *, changes: bool = True) -> None:
        self._handle, self._cloud, self._action, self._changes = handle, handle._cloud, action, changes
        self.now = 0.0

    async def __aenter__(self) -> "_Call":
        await asyncio.sleep(self._cloud.chance.uniform(0.01, 0.3))
        if self._handle.dead:
            raise asyncio.CancelledError
        self.now = asyncio.get_running_loop().time()
        self._cloud.settle(self.now)
        self._cloud.calls[self._action] = self._cloud.calls.get(self._action, 0) + 1
        self._fault = self._cloud.faults.popleft() if self._changes and self._cloud.faults else ""
        if self._fault:
            BEFELL[self._fault] += 1
        if self._fault == "throttled":
            raise refusal(self._action, "Throttling")
        if self._fault == "unreachable":
            raise refusal(self._action, NO_ANSWER)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None and self._fault == "lost":
            await asyncio.sleep(20.0)
            raise refusal(self._action, NO_ANSWER)
        await asyncio.sleep(self._cloud.chance.uniform(0.01, 0.3))
