"""Which addresses and prefixes a network interface has: assigning, unassigning, and the limits of both.

A call is carried out whole, or not at all.
"""

from collections.abc import Iterable, Sequence

from compose.lab.cloud.core import errors
from compose.lab.cloud.core.addresses import AddressSpace
from compose.lab.cloud.core.holdings import Holdings
from compose.lab.cloud.core.model import Assign, Eni, EniStatus, EniType, Unassign
from shared.model import Cidr, Ip

MAX_DETACHED_IPV4 = 50
"""Private IPv4 addresses of a network interface that no instance has yet (API reference)."""


class Addressing(Holdings):
    """The part of an account that gives addresses to interfaces which are there already."""

    def assign_ipv4(self, eni_id: str, now: float, *, count: int = 0, addresses: Sequence[str] = ()) -> list[Ip]:
        """Secondary private addresses: `count` free ones, or exactly `addresses`. All or none."""
        eni, wanted = self._settled(eni_id), len(addresses) or count
        self._check_slots4(eni, wanted)
        space = self._ipv4[eni.vswitch]
        if wanted <= space.free:
            self._check_vswitch_quota(eni.vswitch, wanted)
        fresh = some_addresses(space, eni_id, count, addresses, "PrivateIpAddress")
        eni.ipv4.extend(fresh)
        self._addresses_changed(eni, now, Assign(eni_id, tuple(fresh)))
        return fresh

    def assign_ipv4_prefixes(
        self, eni_id: str, now: float, *, count: int = 0, prefixes: Sequence[str] = ()
    ) -> list[Cidr]:
        """Blocks of 16 addresses, each in the place of one address. All or none."""
        eni = self._settled(eni_id)
        self._check_slots4(eni, len(prefixes) or count)
        fresh = some_prefixes(self._ipv4[eni.vswitch], eni_id, count, prefixes, "Ipv4Prefix")
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
        fresh = some_addresses(self._space6(eni), eni_id, count, addresses, "Ipv6Address")
        eni.ipv6 = [*eni.ipv6, *fresh]
        self._addresses_changed(eni, now, Assign(eni_id, tuple(fresh)))
        return fresh

    def assign_ipv6_prefixes(
        self, eni_id: str, now: float, *, count: int = 0, prefixes: Sequence[str] = ()
    ) -> list[Cidr]:
        """Blocks of /80, each in the place of one address. All or none."""
        eni = self._settled(eni_id)
        self._check_slots6(eni, len(prefixes) or count)
        fresh = some_prefixes(self._space6(eni), eni_id, count, prefixes, "Ipv6Prefix")
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

    def _check_vswitch_quota(self, vswitch: str, wanted: int) -> None:
        most = self.quotas.private_ips_per_vswitch
        if most is not None and self._ipv4[vswitch].used + wanted > most:
            raise errors.quota_exceeded("PrivateIpAddress", f"private IP addresses in use in {vswitch}", most)


def some_addresses(space: AddressSpace, owner: str, count: int, wanted: Sequence[str], parameter: str) -> list[Ip]:
    """Exactly the `wanted` ones, or any `count`."""
    return space.claim(owner, wanted, parameter) if wanted else space.take(owner, count)


def some_prefixes(space: AddressSpace, owner: str, count: int, wanted: Sequence[str], parameter: str) -> list[Cidr]:
    """Exactly the `wanted` ones, or any `count`."""
    return space.claim_prefixes(owner, wanted, parameter) if wanted else space.take_prefixes(owner, count)


def _check_held(gone: Sequence[str], held: Sequence[str]) -> None:
    for address in gone:
        if address not in held:
            sentence = f"The IP address {address} is not assigned to the network interface."
            raise errors.CloudError("InvalidIp.IpUnassigned", sentence)
