"""Security groups as nft chains: one pair for each combination of groups that some ENI is in.

All rules of an ENI's groups are one list, by priority, a drop before an accept of the same one; the first that fits
decides. Where none fits, a normal group lets its members in and everything out, an enterprise group nothing
(security groups of the cloud's documentation; more than one kind on one ENI is not allowed there).
"""

from collections.abc import Iterable, Sequence

from compose.lab.cloud.core.model import Direction, Rule, SecurityGroup

_PROTOCOLS = {
    "TCP": "meta l4proto tcp",
    "UDP": "meta l4proto udp",
    "ICMP": "meta l4proto icmp",
    "ICMPv6": "meta l4proto icmpv6",
    "GRE": "meta l4proto gre",
    "ALL": "",
}
_ONLY = {"ICMP": "4", "ICMPv6": "6"}
"""Protocols that exist in one family."""
_ANY_PORT = "-1/-1"


def chain_name(direction: str, groups: Iterable[str]) -> str:
    """`ingress.sg-1.sg-2`."""
    return ".".join([direction, *groups])


def groups_of(chain: str) -> tuple[str, ...]:
    """What `chain_name` was given."""
    return tuple(chain.split(".")[1:])


def members(table: str, groups: Iterable[SecurityGroup]) -> list[str]:
    """nft: the sets of ENIs that these groups' chains look into, their own included. Repeating it is free."""
    names = {name for group in groups for name in (group.id, *(r.peer_group for r in group.rules)) if name}
    return [f"add set {table} {name} {{ type ifname; }}" for name in sorted(names)]


def chains(table: str, groups: Sequence[SecurityGroup]) -> list[str]:
    """nft: both chains of this combination, made or made anew."""
    lines = []
    for direction in Direction:
        name = chain_name(direction, (group.id for group in groups))
        lines += [f"add chain {table} {name}", f"flush chain {table} {name}"]
        lines += [f"add rule {table} {name} {rule}" for rule in _rules(direction, groups)]
    return lines


def no_chains(table: str, groups: Sequence[str]) -> list[str]:
    """nft: nobody is in this combination any more."""
    return [f"delete chain {table} {chain_name(direction, groups)}" for direction in Direction]


def _rules(direction: Direction, groups: Sequence[SecurityGroup]) -> list[str]:
    given = [rule for group in groups for rule in group.rules if rule.direction is direction]
    given.sort(key=lambda rule: (rule.priority, rule.accept))
    lines = [f"{match} {'return' if rule.accept else 'goto refuse'}" for rule in given for match in _matches(rule)]
    normal = [group.id for group in groups if group.kind == "normal"]
    if direction is Direction.INGRESS:
        lines += [f"{match} return" for group in normal for match in _in_group(direction, group, ("4", "6"))]
    return [*lines, "return" if normal and direction is Direction.EGRESS else "goto refuse"]


def _matches(rule: Rule) -> list[str]:
    """One for each family that the rule speaks of."""
    what = [_PROTOCOLS[rule.protocol], *_ports("sport", rule.source_ports), *_ports("dport", rule.ports)]
    families = _ONLY.get(rule.protocol, "46")
    if rule.peer_group:
        who = _in_group(rule.direction, rule.peer_group, families)
    else:
        who = [f"{_ip(cidr)} {_far(rule.direction)} {cidr}" for cidr in (rule.peer_cidr, rule.peer_cidr6) if cidr]
    if rule.own_cidr:
        own, near = _ip(rule.own_cidr), "daddr" if rule.direction is Direction.INGRESS else "saddr"
        who = [f"{match} {own} {near} {rule.own_cidr}" for match in who if f"{own} " in match]
    return [" ".join(filter(None, (match, *what))) for match in who]


def _in_group(direction: Direction, group: str, families: Iterable[str]) -> list[str]:
    """The peer's ENI is in the group, and it uses an address of its own, not one that is only routed to it."""
    port = "iifname" if direction is Direction.INGRESS else "oifname"
    names = {"4": "ip", "6": "ip6"}
    return [f"{port} @{group} {names[f]} {_far(direction)} != @routed{f}" for f in families]


def _ports(side: str, text: str) -> list[str]:
    first, _, last = text.partition("/")
    return [] if text == _ANY_PORT else [f"th {side} {first}-{last}" if first != last else f"th {side} {first}"]


def _ip(cidr: str) -> str:
    return "ip6" if ":" in cidr else "ip"


def _far(direction: Direction) -> str:
    return "saddr" if direction is Direction.INGRESS else "daddr"
