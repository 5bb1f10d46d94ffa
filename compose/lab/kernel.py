"""What a node's kernel holds of ours, read with iproute2: a second opinion, made by none of our own code."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from shared.errors import Internal

MINE = "84"
"""The protocol by which our routes and rules are known (terway.md §5.1)."""

PREFIX = "cali"
SLAVE = "ipvl_"
"""The node's own slave of an ENI, which leads to all pods of that ENI in mode shared-ipvlan; it stays with the ENI."""
PODS_TABLE = "512"
"""The ways to pods that come before ENIs' tables; the one rule of priority 512 looks them up."""
PRIORITIES = (512, 2048)
"""Of the rules about pods; others of ours are the node's (terway.md §5.1.2)."""


class Rule(msgspec.Struct, frozen=True):
    """A policy routing rule of ours; `address` is the pod's."""

    priority: int
    address: str
    table: str


class Kernel(msgspec.Struct, frozen=True):
    """Everything of pods in one node's namespace: host links, rules, routes by pod address."""

    links: list[str]
    rules: list[Rule]
    routes: dict[str, list[str]]
    """Pod address -> devices that it is routed to."""
    first: dict[str, list[str]] = {}
    """The same, in the table that comes before ENIs'."""


async def read(netns: str) -> Kernel:
    """Look into a namespace by its name."""
    links, rules, routes, rules6, routes6 = await asyncio.gather(
        _ip(netns, "link", "show"),
        _ip(netns, "rule", "show"),
        _ip(netns, "-4", "route", "show", "table", "all"),
        _ip(netns, "-6", "rule", "show"),
        _ip(netns, "-6", "route", "show", "table", "all"),
    )
    found: dict[str, list[str]] = {}
    first: dict[str, list[str]] = {}
    for route in (*routes, *routes6):
        if route.get("dev", "").startswith((PREFIX, SLAVE)) and route.get("protocol") == MINE:
            ways = first if str(route.get("table", "")) == PODS_TABLE else found
            ways.setdefault(route["dst"], []).append(route["dev"])
    return Kernel(
        links=[link["ifname"] for link in links if link.get("ifname", "").startswith(PREFIX)],
        rules=[
            Rule(rule["priority"], rule["dst"] if "dst" in rule else rule["src"], str(rule["table"]))
            for rule in (*rules, *rules6)
            if rule.get("protocol") == MINE
            and rule["priority"] in PRIORITIES
            and ("dst" in rule or rule["src"] != "all")  # one for all is the node's
        ],
        routes=found,
        first=first,
    )


async def macs(entry: Path) -> list[str]:
    """The MACs of the links of a namespace, by a path that leads to it; none when it has ended."""
    process = await asyncio.create_subprocess_exec(
        *("nsenter", f"--net={entry}", "ip", "-j", "link", "show"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    stdout, _ = await process.communicate()
    return [link["address"] for link in msgspec.json.decode(stdout or b"[]") if "address" in link]


async def _ip(netns: str, *argv: str) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        "ip", "-n", netns, "-j", *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    if process.returncode != 0:
        raise Internal(f"ip -n {netns} {' '.join(argv)}: {stderr.decode(errors='replace').strip()}")
    return [entry for entry in msgspec.json.decode(stdout or b"[]") if entry]
