"""v1 rules -> the dataplane's rules, the IP sets that they need, and the rules' ids (felix.md §3.4).

A rule's id is a chained hash over the protobuf encoding of all rules up to it, so `_encode` writes that encoding by
hand: fields in ascending order, defaults left out, members of a choice always written.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from services.policy.core import messages, v1
from services.policy.core.profiles import Compat
from services.policy.core.selectors import Selector, parse, unique_id

ALL: Final = parse("all()")


class SetSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An IP set, by what is in it: the endpoints a selector selects, one named port of theirs, or a service's."""

    id: str
    selector: Selector | None = None
    port_name: str = ""
    port_protocol: str = ""
    service: str = ""

    @property
    def with_ports(self) -> bool:
        """Whether members are an address, a protocol and a port; else they are networks."""
        return bool(self.port_name) or self.id.startswith("svc:")

    @property
    def type(self) -> str:
        """The message's type."""
        return "IP_AND_PORT" if self.with_ports else "NET"


Sets = dict[str, SetSpec]
"""By id."""


def compile_rules(rules: Sequence[v1.Rule], seed: str, compat: Compat, sets: Sets) -> tuple[messages.Rule, ...]:
    """The dataplane's rules with their ids, chained from `seed`; adds the sets that they refer to."""
    compiled = []
    digest = hashlib.sha224(seed.encode()).digest()
    for rule in rules:
        plain = _compile(rule, compat, sets)
        digest = hashlib.sha224(digest + encode(plain)).digest()
        rule_id = base64.urlsafe_b64encode(digest).decode()[:16]
        compiled.append(msgspec.structs.replace(plain, rule_id=rule_id))
    return tuple(compiled)


class _Side(msgspec.Struct):
    """One end of a rule, on its way."""

    selector: Selector | None
    set_ids: tuple[str, ...]
    not_set_ids: tuple[str, ...]
    ports: tuple[messages.PortRange, ...]
    not_ports: tuple[messages.PortRange, ...]
    named_ids: tuple[str, ...]
    not_named_ids: tuple[str, ...]


def _compile(rule: v1.Rule, compat: Compat, sets: Sets) -> messages.Rule:
    src = _side(rule.src_selector, rule.not_src_selector, rule.src_ports, rule.not_src_ports, rule, compat, sets)
    dst = _side(rule.dst_selector, rule.not_dst_selector, rule.dst_ports, rule.not_dst_ports, rule, compat, sets)
    src_sets = src.set_ids
    dst_services: tuple[str, ...] = ()
    if rule.src_service:
        src_sets += (_service("svcnoport", rule.src_service_ns, rule.src_service, sets),)
    if rule.dst_service:
        dst_services = (_service("svc", rule.dst_service_ns, rule.dst_service, sets),)
    icmp_type, icmp_type_code = _icmp(rule.icmp_type, rule.icmp_code)
    not_icmp_type, not_icmp_type_code = _icmp(rule.not_icmp_type, rule.not_icmp_code)
    return messages.Rule(
        action=rule.action,
        ip_version=_version(rule),
        protocol=_protocol(rule.protocol),
        src_net=_nets(rule.src_nets),
        src_ports=src.ports,
        dst_net=_nets(rule.dst_nets),
        dst_ports=dst.ports,
        icmp_type=icmp_type,
        icmp_type_code=icmp_type_code,
        src_ip_set_ids=src_sets,
        dst_ip_set_ids=dst.set_ids,
        src_named_port_ip_set_ids=src.named_ids,
        dst_named_port_ip_set_ids=dst.named_ids,
        dst_ip_port_set_ids=dst_services,
        not_protocol=_protocol(rule.not_protocol),
        not_src_net=_nets(rule.not_src_nets),
        not_src_ports=src.not_ports,
        not_dst_net=_nets(rule.not_dst_nets),
        not_dst_ports=dst.not_ports,
        not_icmp_type=not_icmp_type,
        not_icmp_type_code=not_icmp_type_code,
        not_src_ip_set_ids=src.not_set_ids,
        not_dst_ip_set_ids=dst.not_set_ids,
        not_src_named_port_ip_set_ids=src.not_named_ids,
        not_dst_named_port_ip_set_ids=dst.not_named_ids,
        original_src_selector=rule.orig_src_selector,
        original_dst_selector=rule.orig_dst_selector,
        original_src_namespace_selector=rule.orig_src_namespace_selector,
        original_dst_namespace_selector=rule.orig_dst_namespace_selector,
        original_not_src_selector=rule.not_orig_src_selector,
        original_not_dst_selector=rule.not_orig_dst_selector,
        src_service_account_match=_accounts(rule.orig_src_service_acct_selector, rule.orig_src_service_acct_names),
        dst_service_account_match=_accounts(rule.orig_dst_service_acct_selector, rule.orig_dst_service_acct_names),
        http_match=_http(rule.http),
        metadata=_metadata(rule.metadata),
        original_dst_service=rule.dst_service,
        original_dst_service_namespace=rule.dst_service_ns,
        original_src_service=rule.src_service,
        original_src_service_namespace=rule.src_service_ns,
    )


def _side(
    positive: str,
    negative: str,
    ports: tuple[v1.Port, ...],
    not_ports: tuple[v1.Port, ...],
    rule: v1.Rule,
    compat: Compat,
    sets: Sets,
) -> _Side:
    if positive and negative:
        positive, negative = f"({positive}) && (!({negative}))", ""
    selector = parse(positive, compat.language) if positive else None
    excluded = parse(negative, compat.language) if negative else None
    numbers, names = _split(ports)
    not_numbers, not_names = _split(not_ports)
    named = tuple(_named_port(selector, name, rule.protocol, compat, sets) for name in names)
    not_named = tuple(_named_port(selector, name, rule.protocol, compat, sets) for name in not_names)
    # A named port's set holds selected endpoints only; the plain set says more only beside numbers or without ports.
    alone = bool(numbers) or not names
    return _Side(
        selector,
        (_plain(selector, sets),) if selector is not None and alone else (),
        (_plain(excluded, sets),) if excluded is not None else (),
        numbers,
        not_numbers,
        named,
        not_named,
    )


def _plain(selector: Selector, sets: Sets) -> str:
    if selector.id not in sets:
        sets[selector.id] = SetSpec(id=selector.id, selector=selector)
    return selector.id


def _named_port(selector: Selector | None, name: str, protocol: v1.Protocol | None, compat: Compat, sets: Sets) -> str:
    chosen = selector or ALL
    if protocol in ("udp", 17):
        text = "udp"
    elif compat.sctp and protocol in ("sctp", 132):
        text = "sctp"
    else:
        text = "any" if protocol is None and compat.any_protocol_ports else "tcp"
    set_id = unique_id("n", f"{chosen.id},{text},{name}")
    if set_id not in sets:
        sets[set_id] = SetSpec(id=set_id, selector=chosen, port_name=name, port_protocol=text)
    return set_id


def _service(prefix: str, namespace: str, name: str, sets: Sets) -> str:
    service = f"{namespace}/{name}"
    set_id = unique_id(prefix, service)
    if set_id not in sets:
        sets[set_id] = SetSpec(id=set_id, service=service)
    return set_id


def _split(ports: Iterable[v1.Port]) -> tuple[tuple[messages.PortRange, ...], list[str]]:
    numbers, names = [], []
    for port in ports:
        if isinstance(port, int):
            numbers.append(messages.PortRange(port, port))
        elif ":" in port:
            low, _, high = port.partition(":")
            numbers.append(messages.PortRange(int(low), int(high)))
        else:
            names.append(port)
    return tuple(numbers), names


def _nets(written: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(net for net in written if net is not None)


def _version(rule: v1.Rule) -> str:
    if rule.ip_version is not None:
        return f"IPV{rule.ip_version}"
    return {"icmp": "IPV4", "icmpv6": "IPV6"}.get(str(rule.protocol), "")


def _protocol(protocol: v1.Protocol | None) -> messages.Protocol | None:
    if protocol is None:
        return None
    return messages.Protocol(number=protocol) if isinstance(protocol, int) else messages.Protocol(name=protocol)


def _icmp(kind: int | None, code: int | None) -> tuple[int | None, messages.IcmpTypeAndCode | None]:
    if kind is None or code is None:
        return kind, None
    return None, messages.IcmpTypeAndCode(kind, code)


def _accounts(selector: str, names: tuple[str, ...]) -> messages.ServiceAccountMatch | None:
    return messages.ServiceAccountMatch(selector, names) if selector or names else None


def _http(match: v1.HTTPMatch | None) -> messages.HTTPMatch | None:
    if match is None:
        return None
    paths = (
        messages.HTTPPath(exact=path.exact) if path.exact else messages.HTTPPath(prefix=path.prefix)
        for path in match.paths
        if path.exact or path.prefix
    )
    return messages.HTTPMatch(match.methods, tuple(paths))


def _metadata(metadata: v1.RuleMetadata | None) -> messages.RuleMetadata | None:
    return None if metadata is None else messages.RuleMetadata(metadata.annotations)


# ---- protobuf

_VERSIONS: Final = {"IPV4": 4, "IPV6": 6}

_NUMBERS: Final = {
    "action": 1,
    "ip_version": 2,
    "protocol": 3,
    "src_net": 4,
    "src_ports": 5,
    "dst_net": 6,
    "dst_ports": 7,
    "icmp_type": 8,
    "icmp_type_code": 9,
    "src_ip_set_ids": 10,
    "dst_ip_set_ids": 11,
    "src_named_port_ip_set_ids": 12,
    "dst_named_port_ip_set_ids": 13,
    "dst_ip_port_set_ids": 15,
    "not_protocol": 102,
    "not_src_net": 103,
    "not_src_ports": 104,
    "not_dst_net": 105,
    "not_dst_ports": 106,
    "not_icmp_type": 107,
    "not_icmp_type_code": 108,
    "not_src_ip_set_ids": 109,
    "not_dst_ip_set_ids": 110,
    "not_src_named_port_ip_set_ids": 112,
    "not_dst_named_port_ip_set_ids": 113,
    "original_src_selector": 114,
    "original_dst_selector": 115,
    "original_src_namespace_selector": 116,
    "original_dst_namespace_selector": 117,
    "original_not_src_selector": 118,
    "original_not_dst_selector": 119,
    "src_service_account_match": 120,
    "dst_service_account_match": 121,
    "http_match": 122,
    "metadata": 123,
    "original_dst_service": 130,
    "original_dst_service_namespace": 131,
    "original_src_service": 132,
    "original_src_service_namespace": 133,
}


def encode(rule: messages.Rule) -> bytes:
    """The rule as protobuf, without its id."""
    return b"".join(_fields(rule))


def _fields(rule: messages.Rule) -> Iterator[bytes]:
    for name, number in _NUMBERS.items():
        value = getattr(rule, name)
        if value is None or value == () or value == "":
            continue
        if name == "ip_version":
            yield _integer(number, _VERSIONS[value])
        elif isinstance(value, str):
            yield _text(number, value)
        elif isinstance(value, int):
            yield _integer(number, value)
        elif isinstance(value, tuple):
            for element in value:
                yield _text(number, element) if isinstance(element, str) else _nested(number, _message(element))
        else:
            yield _nested(number, _message(value))


def _message(value: object) -> bytes:
    match value:
        case messages.PortRange(first=first, last=last):
            return _number(1, first) + _number(2, last)
        case messages.Protocol(number=number, name=name):
            return _integer(1, number) if number is not None else _text(2, name or "")
        case messages.IcmpTypeAndCode(type=kind, code=code):
            return _number(1, kind) + _number(2, code)
        case messages.ServiceAccountMatch(selector=selector, names=names):
            return (_text(1, selector) if selector else b"") + b"".join(_text(2, name) for name in names)
        case messages.HTTPMatch(methods=methods, paths=paths):
            encoded = (_text(1, p.exact) if p.exact is not None else _text(2, p.prefix or "") for p in paths)
            return b"".join(_text(1, method) for method in methods) + b"".join(_nested(2, path) for path in encoded)
        case messages.RuleMetadata(annotations=annotations):
            pairs = (_text(1, key) + _text(2, annotations[key]) for key in sorted(annotations))
            return b"".join(_nested(1, pair) for pair in pairs)
    raise TypeError(f"{value!r} is no part of a rule")


def _number(number: int, value: int) -> bytes:
    """A number outside a choice, which is left out when it is 0."""
    return _integer(number, value) if value else b""


def _integer(number: int, value: int) -> bytes:
    # Negative numbers are ten bytes of two's complement in protobuf; the filter lets none through.
    return _varint(number << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _text(number: int, value: str) -> bytes:
    return _nested(number, value.encode())


def _nested(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
