"""Who asks whom: names of a lab's pods, nodes and outside as namespaces and addresses, and the probe between them."""

from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from compose.lab.layout import Layout
from compose.lab.pods import Pods, parse_pod
from compose.lab.probe import Answer, ask, parse_target
from compose.lab.record import Record
from shared.errors import NotFound

OUTSIDE = "outside"


async def reach(
    layout: Layout,
    there: Record,
    pods: Pods,
    *,
    source: str,
    target: str,
    timeout_s: float = 2.0,
    ipv6: bool = False,
) -> Answer:
    """Ask from `source` (a pod, a node, `outside`), at the target's IPv6 address where `ipv6` says so.

    Errors: Invalid, NotFound (no such pod, or no such address of it), Refused (no such protocol here).
    """
    wanted = parse_target(target)
    netns = await _namespace(layout, there, pods, source)
    address = await _address(there, pods, wanted.host, ipv6=ipv6)
    return await ask(netns, address, wanted.port, timeout_s=timeout_s)


async def _namespace(layout: Layout, there: Record, pods: Pods, name: str) -> Path:
    if name == OUTSIDE:
        return layout.outside_netns
    if any(facts.name == name for facts in there.nodes):
        return layout.node(name).netns
    return (await pods.sandbox(parse_pod(name))).entry


async def _address(there: Record, pods: Pods, name: str, *, ipv6: bool) -> str:
    if name == OUTSIDE:
        return str(there.about["outside_host6" if ipv6 else "outside_host"])
    for facts in there.nodes:
        if facts.name == name:
            return _one(name, [facts.primary_ip, facts.primary_ipv6], ipv6=ipv6)
    try:
        return str(ip_address(name))
    except ValueError:
        info = await pods.get(parse_pod(name))
    return _one(f"pod {name}", info.addresses, ipv6=ipv6)


def _one(whose: str, addresses: Iterable[str], *, ipv6: bool) -> str:
    for address in addresses:
        if address and (":" in address) is ipv6:
            return address
    raise NotFound(f"{whose} has no {'IPv6 ' if ipv6 else ''}address")
