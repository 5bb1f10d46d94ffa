"""The fabric of one lab: makes, changes and removes its namespaces and links.

One thread lives in the VPC's namespace and does everything that the kernel must do, in order; the event loop
only waits for it. What is plugged is kept in memory: the process that made a fabric is the one that ends it, and
whatever a killed one left is removed by `remove_leftovers` before a new one starts.
"""

import asyncio
import functools
import socket
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import msgspec

from compose.lab.fabric import kernel, names, script
from compose.lab.fabric.netns import enter
from compose.lab.fabric.script import Plan, Port
from shared.errors import NotFound
from shared.model import Cidr, Ip, Mac

P = ParamSpec("P")
T = TypeVar("T")


class Traffic(msgspec.Struct, frozen=True):
    """Packets and bytes, headers of the link included."""

    packets: int = 0
    bytes: int = 0


class Counters(msgspec.Struct, frozen=True):
    """What an ENI has sent and received, by its own address; `refused`: what it sent and was not let through."""

    sent: dict[Ip, Traffic]
    received: dict[Ip, Traffic]
    refused: dict[Ip, Traffic]


class Link(msgspec.Struct, frozen=True):
    """A link of a namespace."""

    name: str
    mac: str
    addresses: list[str]
    up: bool


def remove_leftovers(lab: str) -> list[str]:
    """Remove every namespace of a lab that nobody runs; returns their names."""
    found = names.existing(lab)
    for namespace in found:
        kernel.delete(namespace)
    return found


class VpcFabric:
    """Runs while its context is open. Implements what the cloud calls its fabric."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lab = names.check_lab(plan.lab)
        self.vpc = names.namespace(plan.lab, "vpc")
        self.outside = names.namespace(plan.lab, "out")
        self.ports: dict[str, Port] = {}
        self._subnets = {subnet.name: subnet for subnet in plan.subnets}
        self._nodes: dict[str, str] = {}
        self._thread: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._make_namespaces)
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="lab-fabric", initializer=enter, initargs=(names.path(self.vpc),)
        )
        try:
            await self.inside_vpc(self._build)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Remove everything."""
        if self._thread is not None:
            await asyncio.to_thread(self._thread.shutdown)
            self._thread = None
        await asyncio.to_thread(remove_leftovers, self.lab)

    async def inside_vpc(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something in the thread that lives in the VPC's namespace."""
        assert self._thread is not None, "the fabric is not open"
        return await asyncio.get_running_loop().run_in_executor(self._thread, functools.partial(act, *args, **kwargs))

    async def listen(self, address: Ip, port: int) -> socket.socket:
        """A listening socket in the VPC's namespace, for a server that runs outside of it."""
        return await self.inside_vpc(_listening, address, port)

    # ---- the VPC itself

    def _make_namespaces(self) -> None:
        remove_leftovers(self.lab)
        kernel.add(self.vpc)
        kernel.add(self.outside)

    def _build(self) -> None:
        kernel.write_sysctls(script.ROUTER_SYSCTLS)
        kernel.ip(script.vpc_links(self.plan, self.outside))
        for subnet in self.plan.subnets:
            kernel.write_sysctls(script.bridge_sysctls(subnet))
        kernel.nft([script.FILTER])
        kernel.inside(self.outside, lambda: kernel.ip(script.outside_links(self.plan)))

    # ---- nodes

    async def add_node(self, node: str) -> None:
        """A machine without links, or the one that is there."""
        if node not in self._nodes:
            await self.inside_vpc(self._add_node, names.check_node(node))

    def _add_node(self, node: str) -> None:
        namespace = names.namespace(self.lab, node)
        kernel.add(namespace)
        self._nodes[node] = namespace
        kernel.inside(namespace, _prepare_node)

    async def remove_node(self, node: str) -> None:
        """The machine goes; what is plugged into it goes with it."""
        for port in [p for p in self.ports.values() if p.node == node]:
            await self.unplug(port.eni)
        if (namespace := self._nodes.pop(node, None)) is not None:
            await self.inside_vpc(kernel.delete, namespace)

    # ---- ENIs

    async def plug(
        self, eni: str, *, mac: Mac, vswitch: str, node: str, addresses: tuple[Ip | Cidr, ...], primary: bool
    ) -> None:
        """A device with this MAC appears in the node, as the first free ethN; the primary one is configured, too."""
        if eni not in self.ports:
            port = Port(eni, mac, self._subnets[vswitch], node, _carried(addresses))
            await self.inside_vpc(self._plug, port, primary)

    def _plug(self, port: Port, primary: bool) -> None:
        namespace = self._nodes[port.node]
        device = kernel.inside(namespace, _free_device)
        kernel.nft(script.hardware("add", port) + script.owners("add", port, port.addresses))
        self.ports[port.eni] = port
        kernel.ip(script.plug_link(port, device=device, namespace=namespace))
        kernel.bridge(script.forwarding(port))
        kernel.ip(script.routes("replace", port, port.addresses))
        if primary:
            kernel.inside(namespace, lambda: kernel.ip(script.primary_interface(port, device)))

    async def unplug(self, eni: str) -> None:
        """Its device vanishes, wherever it is by now."""
        if (port := self.ports.pop(eni, None)) is not None:
            await self.inside_vpc(self._unplug, port)

    def _unplug(self, port: Port) -> None:
        kernel.ip(script.routes("delete", port, port.addresses))
        kernel.nft(script.owners("delete", port, port.addresses) + script.hardware("delete", port))
        if port.eni in _device_names():  # the device's own namespace may have ended, and the link with it
            kernel.ip([f"link delete {port.eni}"])

    async def assign(self, eni: str, addresses: tuple[Ip | Cidr, ...]) -> None:
        """Packets from and for these addresses pass from now on."""
        port = self._port(eni)
        fresh = tuple(a for a in _carried(addresses) if a not in port.addresses)
        self.ports[eni] = msgspec.structs.replace(port, addresses=port.addresses + fresh)
        await self.inside_vpc(self._assign, port, fresh)

    def _assign(self, port: Port, addresses: tuple[Ip, ...]) -> None:
        kernel.nft(script.owners("add", port, addresses))
        kernel.ip(script.routes("replace", port, addresses))

    async def unassign(self, eni: str, addresses: tuple[Ip | Cidr, ...]) -> None:
        """They no longer pass."""
        port = self._port(eni)
        gone = tuple(a for a in _carried(addresses) if a in port.addresses)
        self.ports[eni] = msgspec.structs.replace(port, addresses=tuple(a for a in port.addresses if a not in gone))
        await self.inside_vpc(self._unassign, port, gone)

    def _unassign(self, port: Port, addresses: tuple[Ip, ...]) -> None:
        kernel.ip(script.routes("delete", port, addresses))
        kernel.nft(script.owners("delete", port, addresses))

    # ---- what the kernel is not told yet: security groups, and the VPC's route table

    async def define_group(self, group: object) -> None:
        """Not applied to packets yet."""

    async def forget_group(self, group: str) -> None:
        """Not applied to packets yet."""

    async def guard(self, eni: str, groups: tuple[str, ...]) -> None:
        """Not applied to packets yet."""

    async def route(self, destination: Cidr, eni: str | None) -> None:
        """Not applied to packets yet."""

    def _port(self, eni: str) -> Port:
        if (port := self.ports.get(eni)) is None:
            raise NotFound(f"{eni} is not plugged into any node")
        return port

    # ---- looking

    @property
    def namespaces(self) -> dict[str, str]:
        """Node name to namespace name."""
        return dict(self._nodes)

    async def counters(self, eni: str) -> Counters:
        """Since each address was assigned."""
        self._port(eni)
        return await self.inside_vpc(_counters, eni)

    async def links(self, node: str) -> list[Link]:
        """What a node's namespace holds now."""
        if (namespace := self._nodes.get(node)) is None:
            raise NotFound(f"there is no node {node}")
        return await self.inside_vpc(kernel.inside, namespace, _links)

    async def vpc_links(self) -> list[Link]:
        """What the VPC's namespace holds now."""
        return await self.inside_vpc(_links)

    async def delivered(self) -> dict[Ip, str]:
        """Address to the ENI that the kernel delivers it to now."""
        return await self.inside_vpc(_delivered)


def _carried(addresses: Iterable[Ip | Cidr]) -> tuple[Ip, ...]:
    """Single IPv4 addresses: IPv6 and prefixes are not carried yet."""
    return tuple(Ip(a) for a in addresses if ":" not in a and "/" not in a)


def _listening(address: Ip, port: int) -> socket.socket:
    listener = socket.create_server((address, port), backlog=256)
    listener.setblocking(False)
    return listener


def _prepare_node() -> None:
    kernel.write_sysctls(script.NODE_SYSCTLS)
    kernel.ip(["link set lo up"])


def _device_names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def _free_device() -> str:
    taken = _device_names()
    return next(name for name in (f"eth{i}" for i in range(len(taken) + 1)) if name not in taken)


def _json(*command: str) -> Any:
    return msgspec.json.decode(subprocess.run(command, capture_output=True, check=True).stdout)


def _counted(listing: Any, set_name: str) -> list[tuple[str, Ip, Traffic]]:
    """Interface, address and traffic of each element of one of the filter's sets."""
    found = []
    for entry in listing["nftables"]:
        if entry.get("set", {}).get("name") == set_name:
            for element in (e["elem"] for e in entry["set"].get("elem", [])):
                interface, _, address = element["val"]["concat"]
                counter = element.get("counter", {})
                traffic = Traffic(counter.get("packets", 0), counter.get("bytes", 0))
                found.append((interface, Ip(address), traffic))
    return found


def _counters(eni: str) -> Counters:
    listing = _json("nft", "-j", "list", "table", "bridge", "fabric")
    sent, received, refused = (
        {address: traffic for interface, address, traffic in _counted(listing, name) if interface == eni}
        for name in ("sources", "destinations", "refused")
    )
    return Counters(sent, received, refused)


def _delivered() -> dict[Ip, str]:
    listing = _json("nft", "-j", "list", "table", "bridge", "fabric")
    routed = {route["dst"] for route in _json("ip", "-j", "route", "show")}
    return {address: eni for eni, address, _ in _counted(listing, "destinations") if address in routed}


def _links() -> list[Link]:
    return [
        Link(
            name=entry["ifname"],
            mac=entry.get("address", ""),
            addresses=[f"{a['local']}/{a['prefixlen']}" for a in entry.get("addr_info", [])],
            up="UP" in entry.get("flags", []),
        )
        for entry in _json("ip", "-j", "address", "show")
    ]
