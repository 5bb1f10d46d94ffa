"""What nft is told: who may send from which address, and what security groups let through.

Packets meet three chains. Each asks only about the port, which is the ENI, so that a change costs a few elements:

    prerouting   sources     an ENI's packets carry its MAC and a range of its own, or end here, before conntrack
    forward      security    replies pass; others only if the sender's groups let them out and the receiver's in
    postrouting  counting

What is delivered to an ENI is decided by routes alone (`script.ways`). What an ENI exchanges with the VPC's namespace
itself (the cloud's services, gateways) is no business of security groups, nor of conntrack.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from itertools import groupby

from compose.lab.fabric.groups import chain_name
from compose.lab.fabric.port import Port
from compose.lab.fabric.script import OUTSIDE_LINK
from shared.model import Cidr, Ip

TABLE = "inet fabric"

_FAMILIES = ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr"))


def _lines(template: str) -> str:
    return "\n".join(template.format(v=v, ip=ip, addr=addr) for v, ip, addr in _FAMILIES)


RULES = f"""
table {TABLE} {{
    set hardware {{ type ifname . ether_addr; }}
    {
    _lines('''
    set sources{v} {{ type ifname . ether_addr . {addr}; counter; }}
    set sources{v}_wide {{ type ifname . ether_addr . {addr}; flags interval; counter; }}
    set refused{v} {{ type ifname . ether_addr . {addr}; size 1024; flags dynamic; counter; }}
    set destinations{v} {{ type ifname . {addr}; counter; }}
    set destinations{v}_wide {{ type ifname . {addr}; flags interval; counter; }}
    set routed{v} {{ type {addr}; flags interval; }}''')
}
    map egress {{ type ifname : verdict; }}
    map ingress {{ type ifname : verdict; }}
    set dropped {{ type ifname . ifname; size 65535; flags dynamic; counter; }}

    chain sources {{
        type filter hook prerouting priority -300; policy drop;
        fib daddr type local notrack
        iifname {{ "lo", "{OUTSIDE_LINK}" }} accept
        {
    _lines('''
        iifname . ether saddr . {ip} saddr @sources{v} accept
        iifname . ether saddr . {ip} saddr @sources{v}_wide accept''')
}
        iifname . ether saddr @hardware ip6 saddr fe80::/10 icmpv6 type nd-neighbor-solicit accept
        update @refused4 {{ iifname . ether saddr . ip saddr }}
        ip6 saddr != {{ ::, fe80::/10 }} update @refused6 {{ iifname . ether saddr . ip6 saddr }}
    }}
    chain own {{
        type filter hook output priority -300; policy accept;
        notrack
    }}
    chain refuse {{
        update @dropped {{ iifname . oifname }}
        drop
    }}
    chain security {{
        type filter hook forward priority 0; policy accept;
        ct state established,related accept
        iifname vmap @egress
        oifname vmap @ingress
    }}
    chain counting {{
        type filter hook postrouting priority 300; policy accept;
        {
    _lines('''
        oifname . {ip} daddr @destinations{v}
        oifname . {ip} daddr @destinations{v}_wide''')
}
    }}
}}
"""
"""nft: the sets' counters are the ENIs' packet counters; `refused` counts what was dropped as nobody's own (but not
the noise of an interface that has no address yet), `dropped` what security groups did not let through."""


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def _elements(port: Port) -> set[tuple[str, str]]:
    """Set and element: all that the table holds because of this port."""
    eni = f'"{port.eni}"'
    found = {("hardware", f"{eni} . {port.mac}")}
    for address in (*(a for a in port.addresses if "/" not in a), *_merged(a for a in port.ranges if "/" in a)):
        which = f"{family(address)}{'_wide' if '/' in address else ''}"
        found.add((f"sources{which}", f"{eni} . {port.mac} . {address}"))
        found.add((f"destinations{which}", f"{eni} . {address}"))
    if port.groups:
        found.update((f"{way}", f"{eni} : jump {chain_name(way, port.groups)}") for way in ("egress", "ingress"))
    found.update((group, eni) for group in port.groups)
    return found


def _merged(cidrs: Iterable[Ip | Cidr]) -> list[Cidr]:
    """Without overlaps: an interval set takes none."""
    given = list(cidrs)
    four = collapse_addresses(IPv4Network(cidr) for cidr in given if family(cidr) == 4)
    six = collapse_addresses(IPv6Network(cidr) for cidr in given if family(cidr) == 6)
    return [Cidr(str(network)) for network in (*four, *six)]


def change(before: Port | None, after: Port | None) -> list[str]:
    """One port is another now: what goes, then what comes. Elements of both keep their counters."""
    old = _elements(before) if before else set()
    new = _elements(after) if after else set()
    return [*_batch("delete", old - new), *_batch("add", new - old)]


def _batch(verb: str, elements: set[tuple[str, str]]) -> list[str]:
    return [
        f"{verb} element {TABLE} {name} {{ {', '.join(element for _, element in those)} }}"
        for name, those in groupby(sorted(elements), key=lambda pair: pair[0])
    ]


def routed(destinations: Sequence[Cidr]) -> list[str]:
    """All destinations of the VPC's route table: who sends from there is in no security group, only its ENI is."""
    lines = [f"flush set {TABLE} routed{v}" for v, _, _ in _FAMILIES]
    return lines + [f"add element {TABLE} routed{family(cidr)} {{ {cidr} }}" for cidr in _merged(destinations)]
