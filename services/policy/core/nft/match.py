"""When a rule matches, as nftables' expressions: what `verdict.py` says of a flow, said to a kernel (felix.md §4.4).

A rule becomes alternatives, each a conjunction in one line, and matches when any of them does. Two cases need more than
one: numeric ports beside named ones, and IP versions. Text is what `nft --stateless --numeric list` gives back, so that
a condition which another one implies is left out: `tcp dport` says TCP, `ip saddr` says IPv4.

Negations are negations of the whole: `not (type and code)` is one lookup of the pair, and a packet without ports is not
among the ports that a negated list names.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence

from services.policy.core import messages as m
from services.policy.core import nets
from services.policy.core.verdict import NUMBERS

SetName = Callable[[str, int], str]
"""What an IP set is called in an IP version."""

Line = tuple[str, ...]
Block = list[Line]
"""Alternatives; none: never, one empty: always."""

_ALWAYS: Block = [()]
_NEVER: Block = []
_WITH_PORTS = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp", 136: "udplite"}
_ICMP = {4: ("icmp", 1), 6: ("icmpv6", 58)}
_ADDRESS = {4: "ip", 6: "ip6"}
_NFPROTO = {4: 2, 6: 10}
_VERSIONS = {"IPV4": 4, "IPV6": 6}


def alternatives(rule: m.Rule, families: Sequence[int], set_name: SetName) -> list[str]:
    """The rule's alternatives, of which any packet matches at most one. A rule that cannot match has none."""
    only = _VERSIONS.get(rule.ip_version)
    if not _reads_by_family(rule):
        return [" ".join(_within(line, only)) for line in _of(rule, only or 4, set_name)]
    found: list[str] = []
    for family in families:
        if only is None or only == family:
            found += (" ".join(_within(line, family)) for line in _of(rule, family, set_name))
    return found


def _reads_by_family(rule: m.Rule) -> bool:
    """Whether the rule reads differently in the two IP versions."""
    nets_listed = rule.src_net or rule.dst_net or rule.not_src_net or rule.not_dst_net
    return bool(nets_listed or any(True for _ in referred(rule)) or _has_icmp(rule))


def _says(line: Line, family: int) -> bool:
    """Whether the line is about the IP version anyway; ICMP's number is, since there is no ICMP in the other one."""
    icmp, number = _ICMP[family]
    return any(part == f"meta l4proto {number}" or part.startswith((f"{_ADDRESS[family]} ", icmp)) for part in line)


def _within(line: Line, family: int | None) -> Line:
    return line if family is None or _says(line, family) else (f"meta nfproto {_NFPROTO[family]}", *line)


def _of(rule: m.Rule, family: int, set_name: SetName) -> Block:
    addresses = _and(_nets(rule, family), _sets(rule, family, set_name))
    block: Block = []
    for case, said in _cases(rule, family):
        transport = _and(_ports(rule, case, family, set_name), _icmp(rule, case, family))
        block += _and(_and([said], transport), addresses)
    return block


def _and(one: Block, other: Block) -> Block:
    return [(*first, *second) for first in one for second in other]


# ---- protocols


def _number(protocol: m.Protocol | None) -> int | None:
    if protocol is None:
        return None
    return NUMBERS[protocol.name] if protocol.name is not None else protocol.number


def _cases(rule: m.Rule, family: int) -> Iterator[tuple[int | None, Line]]:
    """The protocols to look at one by one, and what says so. None: any, or all the others.

    A rule without a protocol that speaks of ports or ICMP types comes from no valid policy. It is rendered as it reads.
    """
    wanted, unwanted = _number(rule.protocol), _number(rule.not_protocol)
    if wanted is not None:
        if wanted != unwanted:
            yield wanted, () if _implied(rule, wanted, family) else (f"meta l4proto {wanted}",)
        return
    special = {*_WITH_PORTS} if rule.src_ports or rule.dst_ports or rule.not_src_ports or rule.not_dst_ports else set()
    special |= {_ICMP[family][1]} if _has_icmp(rule) else set()
    for number in sorted(special - {unwanted}):
        yield number, () if _implied(rule, number, family) else (f"meta l4proto {number}",)
    others = sorted(special if unwanted is None else special | {unwanted})
    yield None, (f"meta l4proto != {_listed([str(one) for one in others])}",) if others else ()


def _implied(rule: m.Rule, protocol: int, family: int) -> bool:
    """Whether a condition on ports or ICMP types names the protocol anyway."""
    if protocol == _ICMP[family][1]:
        return _has_icmp(rule)
    numbers = rule.src_ports or rule.dst_ports or rule.not_src_ports or rule.not_dst_ports
    return protocol in _WITH_PORTS and bool(numbers or any(True for _ in _named(rule)))


def _has_icmp(rule: m.Rule) -> bool:
    wanted = _types(rule.icmp_type, rule.icmp_type_code)
    return wanted is not None or _types(rule.not_icmp_type, rule.not_icmp_type_code) is not None


def _types(kind: int | None, both: m.IcmpTypeAndCode | None) -> tuple[int, int | None] | None:
    if both is not None:
        return both.type, both.code
    return None if kind is None else (kind, None)


def _icmp(rule: m.Rule, case: int | None, family: int) -> Block:
    name, number = _ICMP[family]
    wanted = _types(rule.icmp_type, rule.icmp_type_code)
    unwanted = _types(rule.not_icmp_type, rule.not_icmp_type_code)
    if case != number:
        return _ALWAYS if wanted is None else _NEVER
    line: list[str] = []
    if wanted is not None:
        kind, code = wanted
        line.append(f"{name} type {kind}")
        if code is not None:
            line.append(f"{name} code {code}")
    if unwanted is not None:
        kind, code = unwanted
        differs = f"{name} type != {kind}" if code is None else f"{name} type . {name} code != {{ {kind} . {code} }}"
        line.append(differs)
    return [tuple(line)]


# ---- addresses


def _nets(rule: m.Rule, family: int) -> Block:
    line: list[str] = []
    for listed, field, wanted in (
        (rule.src_net, "saddr", True),
        (rule.dst_net, "daddr", True),
        (rule.not_src_net, "saddr", False),
        (rule.not_dst_net, "daddr", False),
    ):
        if not listed:
            continue
        # A list of the other family alone turns the rule off for this one, also a negated list.
        mine = [net for net in listed if nets.is_ipv6(net) == (family == 6)]
        if not mine:
            return _NEVER
        text, everything = ranges(mine)
        if everything and not wanted:
            return _NEVER
        line.append(f"{_ADDRESS[family]} {field} {'' if wanted else '!= '}{text}")
    return [tuple(line)]


def ranges(listed: Iterable[str]) -> tuple[str, bool]:
    """Networks as nft lists them, neighbours merged; and whether that is every address."""
    parsed = [ipaddress.ip_network(net) for net in listed]
    kind = type(parsed[0].network_address)
    merged = _merge((int(net.network_address), int(net.broadcast_address)) for net in parsed)
    texts = []
    for first, last in merged:
        covering = list(ipaddress.summarize_address_range(kind(first), kind(last)))
        single = first == last
        whole = str(kind(first)) if single else str(covering[0])
        texts.append(whole if len(covering) == 1 else f"{kind(first)}-{kind(last)}")
    everything = merged == [(0, (1 << parsed[0].max_prefixlen) - 1)]
    return _listed(texts), everything


def _merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}"


def _sets(rule: m.Rule, family: int, set_name: SetName) -> Block:
    address = _ADDRESS[family]
    return [
        (
            *(f"{address} saddr @{set_name(i, family)}" for i in rule.src_ip_set_ids),
            *(f"{address} daddr @{set_name(i, family)}" for i in rule.dst_ip_set_ids),
            *(f"{address} saddr != @{set_name(i, family)}" for i in rule.not_src_ip_set_ids),
            *(f"{address} daddr != @{set_name(i, family)}" for i in rule.not_dst_ip_set_ids),
        )
    ]


# ---- ports


def _ports(rule: m.Rule, case: int | None, family: int, set_name: SetName) -> Block:
    r = rule
    if case is not None and case not in _WITH_PORTS:
        wanted = r.src_ports or r.dst_ports or r.src_named_port_ip_set_ids or r.dst_named_port_ip_set_ids
        return _NEVER if wanted or r.dst_ip_port_set_ids else _ALWAYS
    transport = "th" if case is None else _WITH_PORTS[case]
    block = _ALWAYS
    for end, ports, named, not_ports, not_named in (
        ("s", r.src_ports, r.src_named_port_ip_set_ids, r.not_src_ports, r.not_src_named_port_ip_set_ids),
        ("d", r.dst_ports, r.dst_named_port_ip_set_ids, r.not_dst_ports, r.not_dst_named_port_ip_set_ids),
    ):
        port = f"{transport} {end}port"
        key = f"{_ADDRESS[family]} {end}addr . meta l4proto . {port}"
        # What is no case of its own has no ports: no number, and a negated list of numbers says nothing of it.
        numbers = ports if case is not None else ()
        if ports or named:
            block = _and(block, _any_port(port, key, numbers, [set_name(i, family) for i in named]))
        if not_ports and case is not None:
            block = _and(block, [(f"{port} != {_numbers(not_ports)}",)])
        block = _and(block, [tuple(f"{key} != @{set_name(i, family)}" for i in not_named)])
    key = f"{_ADDRESS[family]} daddr . meta l4proto . {transport} dport"
    return _and(block, [tuple(f"{key} @{set_name(i, family)}" for i in r.dst_ip_port_set_ids)])


def _any_port(port: str, key: str, ports: Sequence[m.PortRange], named: Sequence[str]) -> Block:
    """Any of the numbers or of the sets, each alternative without what those before it match."""
    block: Block = []
    before: Line = ()
    for name in named:
        block.append((*before, f"{key} @{name}"))
        before = (*before, f"{key} != @{name}")
    if ports:
        block.append((*before, f"{port} {_numbers(ports)}"))
    return block


def _numbers(ports: Sequence[m.PortRange]) -> str:
    merged = _merge((one.first, one.last) for one in ports if one.first <= one.last)
    return _listed([str(first) if first == last else f"{first}-{last}" for first, last in merged])


def referred(rule: m.Rule) -> Iterator[str]:
    """The ids of all IP sets that the rule names."""
    yield from rule.src_ip_set_ids
    yield from rule.dst_ip_set_ids
    yield from rule.not_src_ip_set_ids
    yield from rule.not_dst_ip_set_ids
    yield from _named(rule)


def _named(rule: m.Rule) -> Iterator[str]:
    yield from rule.src_named_port_ip_set_ids
    yield from rule.dst_named_port_ip_set_ids
    yield from rule.not_src_named_port_ip_set_ids
    yield from rule.not_dst_named_port_ip_set_ids
    yield from rule.dst_ip_port_set_ids
