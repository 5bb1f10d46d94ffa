"""Three nodes of a fabric and what one does on them: packets in, packets counted."""

import asyncio
import functools
import secrets
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compose.lab.fabric import kernel, names
from compose.lab.fabric.port import Subnet
from compose.lab.fabric.script import Plan
from compose.lab.fabric.vpc import VpcFabric
from compose.lab.waiting import until
from shared.model import Cidr, Ip, Mac

A = Subnet(
    *("vsw-a", Cidr("192.168.0.0/20"), Ip("192.168.15.253")),
    *(Cidr("2408:4005:3cd:1000::/64"), Ip("2408:4005:3cd:1000:ffff:ffff:ffff:fffd")),
)
B = Subnet(
    *("vsw-b", Cidr("192.168.16.0/20"), Ip("192.168.31.253")),
    *(Cidr("2408:4005:3cd:1001::/64"), Ip("2408:4005:3cd:1001:ffff:ffff:ffff:fffd")),
)
SERVICE = Ip("100.100.100.200")
OUTSIDE, OUTSIDE6 = Ip("203.0.113.10"), Ip("2001:db8:113::10")
NODE1, NODE2, NODE3 = Ip("192.168.0.1"), Ip("192.168.16.1"), Ip("192.168.0.2")
NODE1_6, NODE2_6, NODE3_6 = (Ip(f"2408:4005:3cd:{rest}") for rest in ("1000::1", "1001::1", "1000::2"))
POD1, POD2 = Ip("192.168.0.10"), Ip("192.168.0.11")
POD1_6, POD2_6 = Ip("2408:4005:3cd:1000::10"), Ip("2408:4005:3cd:1000::11")
ETH1 = "eni-pods1"
PATIENCE_S = 5.0
"""How long a packet that should come is waited for."""
SILENCE_S = 0.3
"""How long one that should not is."""


def new_lab() -> str:
    """A name that nobody else uses."""
    return f"t{secrets.token_hex(4)}"


def plan(lab: str) -> Plan:
    return Plan(lab, Cidr("192.168.0.0/16"), (A, B), (SERVICE,))


class Nodes:
    """A fabric with node1 and node3 in vSwitch a, node2 in b, and an ENI for pods on node1."""

    def __init__(self, fabric: VpcFabric) -> None:
        self.fabric = fabric

    def netns(self, node: str) -> str:
        return names.namespace(self.fabric.lab, node)

    async def build(self) -> None:
        for number, (node, subnet, addresses) in enumerate(
            [("node1", A, (NODE1, NODE1_6)), ("node2", B, (NODE2, NODE2_6)), ("node3", A, (NODE3, NODE3_6))]
        ):
            await self.fabric.add_node(node)
            await self.fabric.plug(
                f"eni-{node}",
                mac=Mac(f"00:16:3e:00:00:0{number}"),
                vswitch=subnet.name,
                node=node,
                addresses=addresses,
                primary=True,
            )
        await self.plug_pods()

    async def plug_pods(self) -> None:
        """What eni_manager makes of a shared ENI: the pods' traffic leaves by it, through a table of its own."""
        await self.fabric.plug(
            ETH1, mac=Mac("00:16:3e:00:00:10"), vswitch=A.name, node="node1", addresses=(POD1, POD1_6), primary=False
        )
        await self.run("node1", "sysctl", "-w", "net.ipv6.conf.eth1.accept_dad=0")  # or it stays silent for a second
        await self.ip(
            "node1",
            "link set eth1 up",
            f"route add default via {A.gateway} dev eth1 onlink table 1001",
            f"route add default via {A.gateway6} dev eth1 onlink table 1001",
        )
        await self.add_pods("node1", POD1, POD2, POD1_6, POD2_6)

    async def add_pods(self, node: str, *addresses: str, table: str = "1001") -> None:
        """Addresses that the node answers for, whether they are assigned or not; they leave by the table's ENI."""
        await self.ip(node, *(f"address add {pod} dev lo{' nodad' if ':' in pod else ''}" for pod in addresses))
        await until(functools.partial(self._no_local_route, node, addresses), what=f"pods of {node}", within_s=5)
        for pod in addresses:  # ip takes a batch's rules for IPv4
            await self.run(node, "ip", "-6" if ":" in pod else "-4", "rule", "add", "from", pod, "lookup", table)

    async def _no_local_route(self, node: str, addresses: Iterable[str]) -> str:
        """IPv6 addresses work a moment after they have been added."""
        local = (await self.run(node, "ip", "-6", "route", "show", "table", "local")).stdout.split()
        return ", ".join(pod for pod in addresses if ":" in pod and pod not in local)

    async def ip(self, node: str, *lines: str) -> None:
        await asyncio.to_thread(kernel.inside, self.netns(node), lambda: kernel.ip(lines))

    async def run(self, node: str, *command: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run,
            ["nsenter", f"--net={names.path(self.netns(node))}", *command],
            capture_output=True,
            text=True,
            check=False,
        )

    async def ping(self, node: str, target: str, source: str | None = None) -> bool:
        """One echo that should be answered, however busy the machine is."""
        return await self._echo(node, target, source, PATIENCE_S)

    async def silent(self, node: str, target: str, source: str | None = None) -> bool:
        """One echo that nobody should answer."""
        return not await self._echo(node, target, source, SILENCE_S)

    async def _echo(self, node: str, target: str, source: str | None, wait_s: float) -> bool:
        origin = ("-I", source) if source else ()
        return (await self.run(node, "ping", "-n", "-c1", f"-W{wait_s}", *origin, target)).returncode == 0

    async def serve(self, node: str, address: str, port: int) -> socket.socket:
        """A listening TCP socket on the node."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        make = lambda: socket.create_server((address, port), family=family)  # noqa: E731
        return await asyncio.to_thread(kernel.inside, self.netns(node), make)

    async def bind(self, node: str, address: str, port: int) -> socket.socket:
        """A UDP socket on the node."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        make = lambda: socket.socket(family, socket.SOCK_DGRAM)  # noqa: E731
        listener = await asyncio.to_thread(kernel.inside, self.netns(node), make)
        listener.bind((address, port))
        return listener

    async def connect(
        self, node: str, target: str, port: int, *, within_s: float = PATIENCE_S, **options: Any
    ) -> socket.socket | None:
        """A TCP connection; None when nothing came back in time."""
        make = lambda: socket.create_connection((target, port), within_s, **options)  # noqa: E731
        try:
            return await asyncio.to_thread(kernel.inside, self.netns(node), make)
        except TimeoutError:
            return None

    async def reaches(self, node: str, target: str, port: int) -> bool:
        """One TCP connection that should come about."""
        return await self._connects(node, target, port, PATIENCE_S)

    async def cut_off(self, node: str, target: str, port: int) -> bool:
        """One TCP connection that nothing should come back from."""
        return not await self._connects(node, target, port, SILENCE_S)

    async def _connects(self, node: str, target: str, port: int, within_s: float) -> bool:
        if (connection := await self.connect(node, target, port, within_s=within_s)) is None:
            return False
        connection.close()
        return True

    async def datagram(self, node: str, listener: socket.socket, *, wait_s: float = PATIENCE_S) -> bool:
        """One UDP datagram to a socket of another node; arrived or not."""
        make = lambda: socket.socket(listener.family, socket.SOCK_DGRAM)  # noqa: E731
        listener.settimeout(wait_s)
        with await asyncio.to_thread(kernel.inside, self.netns(node), make) as sender:
            sender.sendto(b"?", listener.getsockname())
            try:
                return bool(await asyncio.to_thread(listener.recv, 1))
            except TimeoutError:
                return False

    async def echoes(self, node: str) -> int:
        """Echo requests that the node's own kernel has seen, whoever they were for."""
        return await asyncio.to_thread(kernel.inside, self.netns(node), echo_requests)

    async def sent(self, eni: str, address: str) -> int:
        return (await self.fabric.counters(eni)).sent[Ip(address)].packets

    async def received(self, eni: str, address: str) -> int:
        return (await self.fabric.counters(eni)).received[Ip(address)].packets

    async def refused(self, eni: str) -> int:
        return sum(t.packets for t in (await self.fabric.counters(eni)).refused.values())


def echo_requests() -> int:
    """`InEchos` of the calling thread's namespace, both families together."""
    titles, values = (
        line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if line.startswith("Icmp:")
    )
    counters6 = dict(line.split() for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines())
    return int(values[titles.index("InEchos")]) + int(counters6["Icmp6InEchos"])
