"""Which modes the shared suite runs, and what each of them adds to it.

A mode is one line of MODES. Those run that the kernel carries, and `make test-kernel` runs the others in a guest whose
kernel does; `TERWAY_MODES=vpc-route,shared-veth` chooses fewer.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet

from services.eni_manager.adapters import kernel
from services.eni_manager.core.preflight import NEEDS, kernel_lacks
from shared.model import Mode
from tests.kernel.needs import LACKS

Damages = Mapping[str, str]
"""What is broken -> the command that breaks it, with names of test_damage.names in braces."""

VETH: Damages = {
    "the route to the pod": "ip route del {ip}",
    "the host link is down": "ip link set {link} down",
    "forwarding is off": "sysctl -qw net.ipv4.conf.{link}.forwarding=0",
    "the limit": "tc qdisc del dev {link} root",
    "another limit": "tc qdisc replace dev {link} root handle 1: tbf rate 1gbit burst 512k latency 25ms",
}
"""On the node, in modes whose pods hang on a veth pair."""

SHARED_ENI: Damages = {
    "the rule to pods": "ip rule del priority 512",
    "the route to the pod, before its ENI's": "ip route del {ip} table 512",
    "a rule to the pod": "ip rule add priority 512 to {ip} lookup 77",
    "the rule from the pod": "ip rule del priority 2048 from {ip}",
    "the ENI's routes": "ip route flush table {table}",
    "the ENI's address": "ip addr flush dev {eni}",
    "the ENI's MTU": "ip link set {eni} mtu 1400",
    "the ENI is down": "ip link set {eni} down",
    "rp_filter is on": "sysctl -qw net.ipv4.conf.{eni}.rp_filter=1",
}
"""On the node, in modes with policy routing by ENI."""

IPVLAN: Damages = {
    "the route to the pod": "ip route del {ip}",
    "the route leads elsewhere": "ip route replace {ip} dev eth0",
    "the node's slave": "ip link del {link}",
    "the node's slave is down": "ip link set {link} down",
    "the node's slave asks for MACs": "ip link set {link} arp on",
    "the node's address": "ip addr flush dev {link}",
    "an address on the ENI": "ip addr add 192.168.200.1/32 dev {eni}",
    "the ENI's MTU": "ip link set {eni} mtu 1400",
    "the ENI is down": "ip link set {eni} down",
    "the classifier": "tc filter del dev {eni} egress pref 40000",
    "the classifier's place": "tc qdisc del dev {eni} clsact",
    "a range of the classifier's map": "{python} -m tests.system.modes.tamper drop {eni} 172.21.0.0/20",
    "another range in the classifier's map": "{python} -m tests.system.modes.tamper add {eni} 10.9.0.0/16",
    "forwarding is off": "sysctl -qw net.ipv4.conf.all.forwarding=0",
}
"""On the node, in the mode whose pods are on slaves of the ENI."""

IN_POD: Damages = {
    "the address": "ip addr flush dev eth0",
    "another address": "ip addr add 192.168.200.1/32 dev eth0",
    "the interface is down": "ip link set eth0 down",
    "the default route": "ip route del default",
    "the gateway's MAC": "ip neigh del 169.254.1.1 dev eth0",
    "the MTU": "ip link set eth0 mtu 1400",
    "the limit": "tc qdisc del dev eth0 root",
}
"""In the pod, each before those that it would take along."""


IN_POD_EXCLUSIVE: Damages = {
    **{what: command for what, command in IN_POD.items() if what != "the gateway's MAC"},
    "the way to the node is down": "ip link set veth1 down",
    "the node's MAC": "ip neigh del 169.254.1.1 dev veth1",
    "the Services' route": "ip route del 172.21.0.0/20",
    "the ingress limit": "tc qdisc del dev terway-in root",
    "what leads to the ingress limit": "tc qdisc del dev eth0 ingress",
    "Services' packets on their way out": "tc filter del dev veth1 ingress prio 20000",
    "answers to Services' packets": "tc filter del dev eth0 ingress prio 20000",
}

IN_POD_IPVLAN: Damages = {
    **{what: command for what, command in IN_POD.items() if what != "the gateway's MAC"},
    "the route to the node": "ip route del {node}",
    "the node's MAC": "ip neigh del {node} dev eth0",
    "the ingress limit": "tc qdisc del dev terway-in root",
    "what leads to the ingress limit": "tc qdisc del dev eth0 ingress",
}


TURN: Damages = {
    "the link that turns Services' packets": "ip link del terway-turn",
    "what turns them": "tc qdisc del dev terway-turn clsact",
    "the rule of what is turned": "ip rule del priority 500",
    "the route of what is turned": "ip route flush table 101",
}
"""On the node, where Services' backends see pods' own addresses."""


@dataclass(frozen=True)
class Traits:
    """What the suite has to know of a mode. `options`: further ones of `lab up`."""

    on_node: Damages
    in_pod: Damages = field(default_factory=lambda: IN_POD)
    options: Mapping[str, Any] = field(default_factory=dict)
    intake: str = ""
    """The pod's own link on which its ingress limit is; empty: it is on the node's end of the pair."""


MODES: Mapping[Mode, Traits] = {
    Mode.SHARED_VETH: Traits({**VETH, **SHARED_ENI}),
    Mode.VPC_ROUTE: Traits(VETH, options={"pool_sync_s": 0.5}),
    Mode.EXCLUSIVE_ENI: Traits(
        {**{what: command for what, command in VETH.items() if "limit" not in what}, **TURN},
        IN_POD_EXCLUSIVE,
        intake="terway-in",
    ),
    # In a guest everything takes fifteen times as long, imports above all: services that a supervisor forks start again
    # without any, and one lab is for both families.
    Mode.SHARED_IPVLAN: Traits(
        IPVLAN, IN_POD_IPVLAN, options={"processes": False, "stack": "dual"}, intake="terway-in"
    ),
}


def chosen() -> list[Mode]:
    """Those asked for, or all."""
    wanted = os.environ.get("TERWAY_MODES", "")
    if unknown := {name for name in wanted.split(",") if name and name not in MODES}:
        raise ValueError(f"TERWAY_MODES: {', '.join(sorted(unknown))} is not among {', '.join(MODES)}")
    return [Mode(name) for name in wanted.split(",")] if wanted else list(MODES)


@cache
def lacking(mode: Mode) -> str:
    """Why this kernel does not carry a mode; empty: it does."""
    needs = NEEDS[mode]
    lacks = kernel_lacks(mode, kernel.known(needs))
    return f"{LACKS}{' and '.join(lacks)}, which mode {mode} needs; see make test-kernel" if lacks else ""


def params(modes: Iterable[Mode], *further: str) -> Iterator[ParameterSet]:
    """Parameters for these modes, those that this kernel does not carry marked as skipped; `further` is each one's."""
    for mode in modes:
        why = lacking(mode) if os.geteuid() == 0 else ""  # others cannot try, nor run labs
        yield pytest.param(mode, *further, marks=[pytest.mark.skipif(bool(why), reason=why)] if why else [])
