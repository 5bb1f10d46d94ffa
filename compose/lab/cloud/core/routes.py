"""The VPC's route table: one for the whole VPC, with the cloud's own entries and the customer's.

    create ─► Pending ─► Available ─► delete ─► Deleting ─► gone

While an entry is on its way, in either direction, nothing else can change the table, as in the cloud.
"""

from collections.abc import Sequence
from functools import partial
from ipaddress import ip_network

from compose.lab.cloud.core import errors
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.errors import CloudError, malformed
from compose.lab.cloud.core.model import EniType, Route, RouteEntry, RouteStatus
from shared.model import Cidr

SERVICES = Cidr("100.64.0.0/10")
"""The cloud's own addresses: metadata, OpenAPI."""


def check_table(account: Account, table: str) -> None:
    """Raises unless it is the VPC's."""
    if table != account.layout.route_table:
        sentence = f"The specified route table {table} does not exist."
        raise CloudError("InvalidRouteTableId.NotFound", sentence, 404)


def system_entries(account: Account) -> list[RouteEntry]:
    """What the cloud puts there itself: its services, and every vSwitch."""
    ranges = [SERVICES] + [Cidr(c) for v in account.vswitches.values() for c in (v.cidr, v.ipv6_cidr) if c]
    return [
        RouteEntry(f"rte-lab-system-{i}", account.layout.route_table, r, "local", "", "", 0.0, RouteStatus.AVAILABLE)
        for i, r in enumerate(ranges)
    ]


def create(
    account: Account,
    now: float,
    *,
    table: str,
    destination: str,
    hop_type: str,
    hop: str,
    name: str = "",
    description: str = "",
    beside: Sequence[RouteEntry] = (),
) -> RouteEntry:
    """Begin to route `destination` to an instance or a network interface; `beside`: made by the same call."""
    _check_idle(account, table, beside)
    cidr = _cidr(destination)
    if len(account.routes) >= account.quotas.route_entries:
        raise errors.quota_exceeded("RouteEntry", "route entries", account.quotas.route_entries)
    _check_free(account, cidr)
    entry = RouteEntry(account.new_id("rte-"), table, cidr, hop_type, hop, _eni(account, hop_type, hop), now)
    entry.name, entry.description = name, description
    account.routes[entry.id] = entry
    account.calendar.after(account.delays.route, now, partial(_available, account, entry))
    return entry


def _available(account: Account, entry: RouteEntry) -> None:
    entry.status = RouteStatus.AVAILABLE
    account.emit(Route(entry.destination, entry.eni))


def delete(
    account: Account,
    now: float,
    *,
    table: str,
    destination: str = "",
    hop: str = "",
    entry: str = "",
    beside: Sequence[RouteEntry] = (),
) -> RouteEntry:
    """Begin to delete the entry of this id, or of this destination and (if given) next hop."""
    _check_idle(account, table, beside)
    found = account.routes.get(entry) if entry else _at(account, destination, hop)
    if found is None or found in beside:
        raise CloudError("InvalidRouteEntry.NotFound", "The specified route entry does not exist.", 404)
    found.status = RouteStatus.DELETING
    account.emit(Route(found.destination, None))
    account.calendar.after(account.delays.route, now, partial(_gone, account, found))
    return found


def _gone(account: Account, entry: RouteEntry) -> None:
    account.routes.pop(entry.id, None)


def _at(account: Account, destination: str, hop: str) -> RouteEntry | None:
    cidr = _cidr(destination)
    return next((e for e in account.routes.values() if e.destination == cidr and hop in ("", e.next_hop)), None)


def _check_idle(account: Account, table: str, beside: Sequence[RouteEntry]) -> None:
    check_table(account, table)
    if any(e.status is not RouteStatus.AVAILABLE and e not in beside for e in account.routes.values()):
        sentence = "Current route table status is not supported for this operation: an entry is being changed."
        raise CloudError("IncorrectRouteEntryStatus", sentence)


def _cidr(text: str) -> Cidr:
    try:
        network = ip_network(text)
    except ValueError as e:
        raise CloudError("InvalidCidrBlock.Malformed", f"Specified CIDR block is not valid: {e}.") from e
    return Cidr(str(network))


def _check_free(account: Account, cidr: Cidr) -> None:
    wanted = ip_network(cidr)
    taken = {e.destination for e in account.routes.values()}
    if cidr in taken:
        sentence = f"A route entry with the CIDR block {cidr} already exists in the route table."
        raise CloudError("InvalidCidrBlock.Duplicate", sentence)
    for own in system_entries(account):
        network = ip_network(own.destination)
        if network.version == wanted.version and wanted.prefixlen >= network.prefixlen and wanted.overlaps(network):
            sentence = f"The CIDR block {cidr} conflicts with a system route ({own.destination})."
            raise CloudError("InvalidCidrBlock.Conflict", sentence)


def _eni(account: Account, hop_type: str, hop: str) -> str:
    """Where packets go. Raises when there is no such thing."""
    if hop_type == "Instance":
        return account.instance(hop).primary_eni
    if hop_type == "NetworkInterface":
        if account.eni(hop).type is EniType.MEMBER:
            raise malformed("NextHopId", "a member of a trunk cannot be a next hop")
        return hop
    raise malformed("NextHopType", "Instance or NetworkInterface: the lab's VPC has no other next hops")
