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
    if not _names_addresses(rule):
        block = _protocols(rule)
        block = _and(block, _ports(rule, 4, set_name))
        if only is not None:
            block = _and([(f"meta nfproto {_NFPROTO[only]}",)], block)
        return [" ".join(line) for line in block]
    found: list[str] = []
    for family in families:
        if only is None or only == family:
            found += (" ".join(line) for line in _of(rule, family, set_name))
    return found


def _names_addresses(rule: m.Rule) -> bool:
    """Whether the rule reads differently in the two IP versions."""
    return bool(
        rule.src_net
        or rule.dst_net
        or rule.not_src_net
        or rule.not_dst_net
        or rule.src_ip_set_ids
        or rule.dst_ip_set_ids
        or rule.not_src_ip_set_ids
        or rule.not_dst_ip_set_ids
        or rule.src_named_port_ip_set_ids
        or rule.dst_named_port_ip_set_ids
        or rule.not_src_named_port_ip_set_ids
        or rule.not_dst_named_port_ip_set_ids
        or rule.dst_ip_port_set_ids
        or _has_icmp(rule)
    )


def _has_icmp(rule: m.Rule) -> bool:
    wanted = _types(rule.icmp_type, rule.icmp_type_code)
    return wanted is not None or _types(rule.not_icmp_type, rule.not_icmp_type_code) is not None


def _of(rule: m.Rule, family: int, set_name: SetName) -> Block:
    block = _nets(rule, family)
    block = _and(_icmp(rule, family), block)
    block = _and(_ports(rule, family, set_name), block)
    block = _and(_protocols(rule), block)
    block = _and(block, _sets(rule, family, set_name))
    if rule.not_icmp_type is not None or rule.not_icmp_type_code is not None:
        return [line if _says(line, family) else (f"meta nfproto {_NFPROTO[family]}", *line) for line in block]
    return block


def _says(line: Line, family: int) -> bool:
    return any(part.startswith((f"{_ADDRESS[family]} ", f"{_ICMP[family][0]} ")) for part in line)


def _and(one: Block, other: Block) -> Block:
    return [(*first, *second) for first in one for second in other]


# ---- protocols


def _number(protocol: m.Protocol | None) -> int | None:
    if protocol is None:
        return None
    return NUMBERS[protocol.name] if protocol.name is not None else protocol.number


def _protocols(rule: m.Rule) -> Block:
    line: list[str] = []
    wanted, unwanted = _number(rule.protocol), _number(rule.not_protocol)
    if wanted is not None:
        if wanted == unwanted:
            return _NEVER
        if not _implied(rule, wanted):
            line.append(f"meta l4proto {wanted}")
    elif unwanted is not None:
        line.append(f"meta l4proto != {unwanted}")
    return [tuple(line)]


def _implied(rule: m.Rule, protocol: int) -> bool:
    """Whether a condition on ports or ICMP types names the protocol anyway."""
    if protocol in (1, 58):
        return _has_icmp(rule)
    return protocol in _WITH_PORTS and bool(
        rule.src_ports
        or rule.dst_ports
        or rule.not_src_ports
        or rule.not_dst_ports
        or rule.src_named_port_ip_set_ids
        or rule.dst_named_port_ip_set_ids
        or rule.not_src_named_port_ip_set_ids
        or rule.not_dst_named_port_ip_set_ids
        or rule.dst_ip_port_set_ids
    )


def _icmp(rule: m.Rule, family: int) -> Block:
    name, number = _ICMP[family]
    protocol = _number(rule.protocol)
    other = protocol is not None and protocol != number
    block = _ALWAYS
    if (wanted := _types(rule.icmp_type, rule.icmp_type_code)) is not None:
        if other or _number(rule.not_protocol) == number:
            return _NEVER
        kind, code = wanted
        block = [(f"{name} type {kind}",) if code is None else (f"{name} type {kind}", f"{name} code {code}")]
    if (unwanted := _types(rule.not_icmp_type, rule.not_icmp_type_code)) is not None:
        kind, code = unwanted
        differs = f"{name} type != {kind}" if code is None else f"{name} type . {name} code != {{ {kind} . {code} }}"
        if other:
            # Another protocol's packet has no type to be the unwanted one. What was implied must be said.
            return [(f"meta l4proto {protocol}",)] if protocol in (1, 58) else _ALWAYS
        negated: Block = [(differs,)]
        if protocol is None and wanted is None:
            negated.append((f"meta l4proto != {number}",))
        block = _and(block, negated)
    return block


def _types(kind: int | None, both: m.IcmpTypeAndCode | None) -> tuple[int, int | None] | None:
    if both is not None:
        return both.type, both.code
    return None if kind is None else (kind, None)


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
        text, everything = _ranges(mine)
        if everything and not wanted:
            return _NEVER
        line.append(f"{_ADDRESS[family]} {field} {'' if wanted else '!= '}{text}")
    return [tuple(line)]


def _ranges(listed: Iterable[str]) -> tuple[str, bool]:
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


def _ports(rule: m.Rule, family: int, set_name: SetName) -> Block:
    protocol = _number(rule.protocol)
    portless = protocol is not None and protocol not in _WITH_PORTS
    transport = "th" if protocol is None else _WITH_PORTS.get(protocol, "th")
    block = _ALWAYS
    for field, ports, named, not_ports, not_named in (
        (
            "s",
            rule.src_ports,
            rule.src_named_port_ip_set_ids,
            rule.not_src_ports,
            rule.not_src_named_port_ip_set_ids,
        ),
        (
            "d",
            rule.dst_ports,
            rule.dst_named_port_ip_set_ids,
            rule.not_dst_ports,
            rule.not_dst_named_port_ip_set_ids,
        ),
    ):
        port = f"{transport} {field}port"
        key = f"{_ADDRESS[family]} {field}addr . meta l4proto . {port}"
        if ports or named:
            if portless:
                return _NEVER
            block = _and(block, _any_port(port, key, ports, [set_name(i, family) for i in named]))
        if not_ports and not portless:
            block = _and(block, _no_port(port, not_ports))
        if not portless:
            block = _and(block, [tuple(f"{key} != @{set_name(i, family)}" for i in not_named)])
    if rule.dst_ip_port_set_ids:
        if portless:
            return _NEVER
        key = f"{_ADDRESS[family]} daddr . meta l4proto . {transport} dport"
        block = _and(block, [tuple(f"{key} @{set_name(i, family)}" for i in rule.dst_ip_port_set_ids)])
    return block


def _any_port(port: str, key: str, ports: Sequence[m.PortRange], named: Sequence[str]) -> Block:
    """Any of the numbers or of the sets, each alternative without what those before it match."""
    block: Block = []
    before: Line = ()
    for name in named:
        block.append((*before, f"{key} @{name}"))
        before = (*before, f"{key} != @{name}")
    if ports:
        known = () if not port.startswith("th ") else (f"meta l4proto {_ALL_WITH_PORTS}",)
        block.append((*before, *known, f"{port} {_numbers(ports)}"))
    return block


def _no_port(port: str, ports: Sequence[m.PortRange]) -> Block:
    differs = f"{port} != {_numbers(ports)}"
    if not port.startswith("th "):
        return [(differs,)]
    return [(f"meta l4proto {_ALL_WITH_PORTS}", differs), (f"meta l4proto != {_ALL_WITH_PORTS}",)]


_ALL_WITH_PORTS = f"{{ {', '.join(map(str, _WITH_PORTS))} }}"


def _numbers(ports: Sequence[m.PortRange]) -> str:
    merged = _merge((one.first, one.last) for one in ports if one.first <= one.last)
    return _listed([str(first) if first == last else f"{first}-{last}" for first, last in merged])


def referred(rule: m.Rule) -> Iterator[str]:
    """The ids of all IP sets that the rule names."""
    yield from rule.src_ip_set_ids
    yield from rule.dst_ip_set_ids
    yield from rule.not_src_ip_set_ids
    yield from rule.not_dst_ip_set_ids
    yield from rule.src_named_port_ip_set_ids
    yield from rule.dst_named_port_ip_set_ids
    yield from rule.not_src_named_port_ip_set_ids
    yield from rule.not_dst_named_port_ip_set_ids
    yield from rule.dst_ip_port_set_ids
