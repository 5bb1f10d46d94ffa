"""Everything that knows of a pod's address, compared: runtime, leases, wiring, kernel, cloud.

    sandbox of the runtime ── lease of ipam ── attachment of eni_manager ── link, rules, route of the kernel
                                   │
                          address of an ENI: ipam's pool ── eni_manager ── the cloud's account ── the fabric

A difference is a leak, a double, or something that is still under way: `until_clean` waits for the last kind. What
lies in ipam's pool between pods (idle, cooling) is no leak; an ENI's addresses are compared as a whole.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec

from compose.lab import control, kernel, services
from compose.lab.kernel import Kernel
from compose.lab.layout import NETNS, Layout, NodeLayout
from compose.lab.pods import runtime_of
from compose.lab.record import Record
from compose.lab.sandbox import Sandbox
from compose.lab.waiting import until
from shared.contracts import eni as eni_contract
from shared.contracts import ipam as ipam_contract
from shared.contracts.ipam import Lease
from shared.errors import SuiteError
from shared.model import Mac, Mode
from shared.rpc.client import Client

FROM_POD = 2048
"""Priority of a pod's rule (terway.md §5.1.2)."""

RULED = (Mode.SHARED_VETH,)
"""Modes whose pods have such a rule, and a route that comes before it."""


class NodeAudit(msgspec.Struct, frozen=True):
    """What each side knows on one node. Sandboxes are container ids, attachments container id -> host link."""

    sandboxes: list[str]
    leases: list[Lease]
    attachments: dict[str, str]
    kernel: Kernel
    pool: list[str]
    """pool items that ipam knows, in whatever state, by their IPv4 addresses"""
    enis: dict[str, list[str]]
    """ENI -> addresses, as eni_manager has them"""
    cloud: dict[str, list[str]]
    """the same, as the cloud has them"""
    deferred: int
    """DELs that wait in the spool"""
    ranges: list[str] = []
    """the node's own ranges of pod addresses, as eni_manager says that they are routed"""
    routed: list[str] = []
    """what the VPC delivers to the node by its route table, as the fabric's kernel has it"""
    devices: dict[str, list[str]] = {}
    """MAC of an ENI that a pod may have to itself -> where it is: the node (empty) or sandboxes, by their ids"""


class Audit(msgspec.Struct, frozen=True):
    """`problems`: one sentence per difference; empty when the lab is clean."""

    problems: list[str]
    nodes: dict[str, NodeAudit]


async def until_clean(layout: Layout, there: Record, *, within_s: float = 30.0) -> Audit:
    """Wait until nothing differs; DeadlineExceeded names what still does."""
    last: list[Audit] = []

    async def missing() -> str:
        last[:] = [await audit(layout, there)]
        return "; ".join(last[0].problems)

    await until(missing, what=f"lab {layout.lab} clean", within_s=within_s, every_s=0.25)
    return last[0]


async def audit(layout: Layout, there: Record) -> Audit:
    """Look at everything once. A service that does not answer is a problem, not an error."""
    problems: list[str] = []
    nodes = {}
    async with control.connect(layout.cloud_socket) as cloud:
        accounts = await cloud.audit()
    problems += accounts["problems"]
    for facts in there.nodes:
        corner = layout.node(facts.name)
        own = [eni for eni in accounts["enis"] if eni["instance"] == facts.instance_id]
        mine = [eni for eni in own if eni["type"] != "Primary"]
        primary = next((eni["id"] for eni in own if eni["type"] == "Primary"), None)
        try:
            routed = [cidr for cidr, eni in accounts["delivered"].items() if "/" in cidr and eni == primary]
            nodes[facts.name] = found = await _look(corner, there, mine, routed)
        except SuiteError as error:
            problems.append(f"{facts.name}: {error.message}")
            continue
        namespaces = [path.name for path in NETNS.glob(f"{corner.netns_name}-*")]
        problems += [f"{facts.name}: {problem}" for problem in compare(found, namespaces)]
    problems += [f"{eni['id']} is attached to nothing" for eni in accounts["enis"] if eni["instance"] is None]
    given = Counter(address for node in nodes.values() for lease in node.leases for address in lease.addresses)
    problems += [f"{address} is leased {times} times" for address, times in given.items() if times > 1]
    return Audit(problems, nodes)


def compare(found: NodeAudit, namespaces: Iterable[str] = ()) -> Iterator[str]:
    """Every difference on one node, as a sentence. Pure. `namespaces`: names of those of pods without containers."""
    leases = {lease.key.container_id: lease for lease in found.leases}
    linked = [lease.host_link for lease in found.leases if lease.mode is not Mode.SHARED_IPVLAN]
    addresses = {address for lease in found.leases for address in lease.addresses}

    yield from _doubles("lease", (str(lease.key) for lease in found.leases))
    yield from _doubles("host link in leases", (lease.host_link for lease in found.leases))
    yield from _sides("sandbox", found.sandboxes, "lease", leases)
    yield from _sides("attachment", found.attachments, "lease", leases)
    yield from _sides("host link", found.kernel.links, "lease", linked)
    yield from _sides("route", found.kernel.routes, "lease", addresses)

    for address, devices in found.kernel.routes.items():
        if len(devices) > 1:
            yield f"route of {address} leads to {', '.join(devices)}"
    ruled = {address for lease in found.leases if lease.mode in RULED for address in lease.addresses}
    wanted = {(FROM_POD, address) for address in ruled}
    yield from _sides("route before the ENI's", found.kernel.first, "lease", ruled)
    for address in found.kernel.first.keys() & found.kernel.routes.keys():
        if found.kernel.first[address] != found.kernel.routes[address]:
            yield f"route of {address} leads to {found.kernel.first[address]} and {found.kernel.routes[address]}"
    rules = [(rule.priority, rule.address) for rule in found.kernel.rules]
    yield from _doubles("rule", (f"{priority}: {address}" for priority, address in rules))
    yield from _sides("rule", map(str, rules), "lease", map(str, wanted))

    pool, wired = set(found.pool), {a for addresses in found.enis.values() for a in addresses if ":" not in a}
    ranges = [ip_network(cidr) for cidr in found.ranges]
    wired |= {address for address in pool if any(ip_address(address) in cidr for cidr in ranges)}
    yield from _sides("address of ipam", pool, "address of eni_manager", wired)
    yield from _sides("range of eni_manager", found.ranges, "route in the VPC", found.routed)
    yield from _sides("ENI of eni_manager", found.enis, "ENI in the cloud", found.cloud)
    for eni in found.enis.keys() & found.cloud.keys():
        yield from _sides(f"{eni}: address", found.enis[eni], "address in the cloud", found.cloud[eni])
    holders = {lease.eni_mac: lease.key.container_id for lease in found.leases}
    for mac, places in found.devices.items():
        if places != [(wanted_at := holders.get(Mac(mac), ""))]:
            told = ", ".join(place or "the node" for place in places) or "nowhere"
            yield f"the ENI with MAC {mac} is in {told}, not in {wanted_at or 'the node'}"
    known = {sandbox[:12] for sandbox in found.sandboxes}
    yield from (
        f"namespace {name} belongs to no sandbox" for name in namespaces if name.rpartition("-")[2] not in known
    )
    if found.deferred:
        yield f"{found.deferred} DELs wait in the spool"


def _doubles(what: str, names: Iterable[str]) -> Iterator[str]:
    yield from (f"{what} {name} is there {times} times" for name, times in Counter(names).items() if times > 1)


def _sides(left: str, lefts: Iterable[str], right: str, rights: Iterable[str]) -> Iterator[str]:
    """What is on one side only."""
    a, b = set(lefts), set(rights)
    yield from (f"{left} {name} has no {right}" for name in sorted(a - b))
    yield from (f"{right} {name} has no {left}" for name in sorted(b - a))


async def _look(node: NodeLayout, there: Record, mine: list[dict[str, Any]], routed: list[str]) -> NodeAudit:
    async with runtime_of(node, there.options.runtime) as runtime:
        sandboxes = [(await runtime.inspect(sandbox_id)) for sandbox_id in await runtime.find()]
    async with Client(node.run / "ipam.sock") as ipam, Client(node.run / "eni_manager.sock") as eni:
        leases = (await ipam.call(ipam_contract.LEASES, ipam_contract.ListLeases())).leases
        wired = (await eni.call(eni_contract.ATTACHMENTS, eni_contract.ListAttachments())).attachments
        inventory = await eni.call(eni_contract.WATCH, eni_contract.Watch())
    pool = _state(node, "ipam")["addresses"]
    return NodeAudit(
        sandboxes=[sandbox.id for sandbox in sandboxes if sandbox.ready],
        leases=leases,
        attachments={attachment.key.container_id: attachment.host_link for attachment in wired},
        kernel=await kernel.read(node.netns_name),
        pool=sorted(pool),
        enis={view.id: sorted(_addresses(view)) for view in inventory.enis},
        cloud={eni["id"]: sorted([*eni["ipv4"], *eni["ipv6"]]) for eni in mine},
        deferred=_waiting(node.state / "spool"),
        ranges=[one.cidr for one in inventory.ranges if one.usable],
        routed=routed,
        devices=await _devices(node, sandboxes, mine) if there.options.mode is Mode.EXCLUSIVE_ENI else {},
    )


async def _devices(node: NodeLayout, sandboxes: list[Sandbox], mine: list[dict[str, Any]]) -> dict[str, list[str]]:
    there = {sandbox.id: await kernel.macs(sandbox.entry) for sandbox in sandboxes if sandbox.ready}
    there[""] = await kernel.macs(node.netns)
    return {
        eni["mac"]: sorted(place for place, found in there.items() if eni["mac"] in found)
        for eni in mine
        if eni["status"] == "InUse"
    }


def _addresses(view: eni_contract.EniView) -> Iterator[str]:
    yield from (ip for address in view.addresses for ip in (address.ipv4, address.ipv6) if ip)
    yield from view.spare6


def _waiting(spool: Path) -> int:
    return len(list(spool.glob("*.del")))


def _state(node: NodeLayout, service: str) -> dict[str, Any]:
    status, state = services.ask(node, services.named(service), "/state")
    if status != 200:
        raise SuiteError("; ".join(state.get("missing", [])) or f"{service} /state: status {status}")
    return state
