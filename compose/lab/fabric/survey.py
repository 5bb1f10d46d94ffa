"""What the kernel holds, read back by iproute2 and nft: for counters, audits and tests.

All of it looks at the namespace of the calling thread.
"""

import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from compose.lab.fabric import firewall, script
from compose.lab.fabric.groups import groups_of
from shared.model import Cidr, Ip


class Traffic(msgspec.Struct, frozen=True):
    """Packets and bytes, as IP sees them."""

    packets: int = 0
    bytes: int = 0


class Counters(msgspec.Struct, frozen=True):
    """What an ENI has sent and received, by its own address or prefix; `refused`: by sources that are not its own."""

    sent: dict[Ip | Cidr, Traffic]
    received: dict[Ip | Cidr, Traffic]
    refused: dict[Ip | Cidr, Traffic]
    dropped: dict[str, Traffic]
    """Between `FROM > TO`, of which it is one: what security groups did not let through."""


class Link(msgspec.Struct, frozen=True):
    """A link of a namespace."""

    name: str
    mac: str
    addresses: list[str]
    up: bool


def _json(*command: str) -> Any:
    return msgspec.json.decode(subprocess.run(command, capture_output=True, check=True).stdout)


def _counted(listing: Any, kind: str) -> Iterator[tuple[list[Any], Traffic]]:
    """Key, as nft prints it, and traffic of each element of the filter's sets of this kind."""
    for entry in (e["set"] for e in listing["nftables"] if "set" in e):
        if entry["name"].removesuffix("_wide").rstrip("46") == kind:
            for element in (e["elem"] for e in entry.get("elem", [])):
                counter = element.get("counter", {})
                yield element["val"]["concat"], Traffic(counter.get("packets", 0), counter.get("bytes", 0))


def _range(shown: Any) -> Ip | Cidr:
    """An address or a prefix, as nft prints it."""
    if isinstance(shown, dict):
        return Cidr(f"{shown['prefix']['addr']}/{shown['prefix']['len']}")
    return Ip(shown)


def counters(eni: str) -> Counters:
    """Of one ENI, since each of its addresses was assigned."""
    listing = _json("nft", "-j", "list", "table", *firewall.TABLE.split())
    sent, received, refused = (
        {_range(key[-1]): traffic for key, traffic in _counted(listing, kind) if key[0] == eni}
        for kind in ("sources", "destinations", "refused")
    )
    dropped = {" > ".join(key): traffic for key, traffic in _counted(listing, "dropped") if eni in key}
    return Counters(sent, received, refused, dropped)


def delivered(entries: Iterable[Cidr]) -> dict[Ip | Cidr, str]:
    """What is routed to an ENI. `entries` of the route table keep their names: `ip` shows one host's in its own way."""
    found: dict[str, str] = {}
    for option, everybody in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        for route in _json("ip", "-j", option, "route", "show"):
            if script.NEXT_HOP in (route.get("gateway"), route.get("via", {}).get("host")):
                found[everybody if route["dst"] == "default" else route["dst"]] = route["dev"]
    hosts = {entry.partition("/")[0]: entry for entry in entries if entry.endswith(("/32", "/128"))}
    return {Cidr(hosts[dst]) if dst in hosts else Ip(dst): device for dst, device in found.items()}


def guards() -> dict[str, tuple[str, ...]]:
    """ENI to the security groups whose chains its packets run through."""
    listing = _json("nft", "-j", "list", "map", *firewall.TABLE.split(), "ingress")
    elements = [pair for entry in listing["nftables"] if "map" in entry for pair in entry["map"].get("elem", [])]
    return {eni: groups_of(verdict["jump"]["target"]) for eni, verdict in elements}


def links() -> list[Link]:
    """Every link there is."""
    return [
        Link(
            name=entry["ifname"],
            mac=entry.get("address", ""),
            addresses=[f"{a['local']}/{a['prefixlen']}" for a in entry.get("addr_info", [])],
            up="UP" in entry.get("flags", []),
        )
        for entry in _json("ip", "-j", "address", "show")
    ]
