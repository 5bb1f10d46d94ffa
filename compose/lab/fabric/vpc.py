"""The fabric of one lab: makes, changes and removes its namespaces and links.

One thread lives in the VPC's namespace and does everything that the kernel must do, in order; the event loop
only waits for it. What is plugged is kept in memory: the process that made a fabric is the one that ends it, and
whatever a killed one left is removed by `remove_leftovers` before a new one starts.
"""

import asyncio
import functools
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import msgspec

from compose.lab.cloud.core.model import SecurityGroup
from compose.lab.fabric import conntrack, firewall, homecoming, kernel, names, neighbours, script, survey
from compose.lab.fabric.groups import chains, members, no_chains
from compose.lab.fabric.netns import enter
from compose.lab.fabric.port import Port
from compose.lab.fabric.script import Plan
from compose.lab.fabric.survey import Counters, Link
from shared import log as logs
from shared.errors import NotFound
from shared.model import Cidr, Ip, Mac

log = logs.get(__name__)
P = ParamSpec("P")
T = TypeVar("T")


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
        self._groups: dict[str, SecurityGroup] = {}
        self._guards: dict[str, tuple[str, ...]] = {}
        """ENI, plugged in or about to be, to the security groups that it is in."""
        self._routes: dict[Cidr, str] = {}
        """The VPC's route table: destination to ENI, plugged in or not."""
        self._neighbours = neighbours.Neighbours(self.ports, script.GATEWAY_MAC)
        self._departures = homecoming.Departures(self._link_gone, self._any_link_gone)
        self._coming_home: set[asyncio.Task[None]] = set()
        self._thread: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._make_namespaces)
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="lab-fabric", initializer=enter, initargs=(names.path(self.vpc),)
        )
        try:
            await self.inside_vpc(self._build)
            self._neighbours.open(await self.inside_vpc(neighbours.listen))
            self._departures.open(await self.inside_vpc(homecoming.listen))
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
        self._neighbours.close()
        self._departures.close()
        for task in tuple(self._coming_home):
            task.cancel()
        await asyncio.gather(*self._coming_home, return_exceptions=True)
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
        kernel.nft([firewall.RULES])
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
            groups = self._guards.get(eni, ())
            routed = tuple(cidr for cidr, to in self._routes.items() if to == eni)
            port = Port(eni, mac, self._subnets[vswitch], node, addresses, groups, routed)
            lines = self._change(None, port)
            await self.inside_vpc(self._plug, port, lines, primary)

    def _plug(self, port: Port, lines: list[str], primary: bool, prefix: str = "eth") -> None:
        namespace = self._nodes[port.node]
        kernel.nft(lines)
        kernel.ip(script.plug_link(port, devices=prefix, namespace=namespace) + script.ways(None, port))
        kernel.write_sysctls(script.port_sysctls(port))
        if primary:
            kernel.inside(namespace, functools.partial(_set_up_primary, port))

    async def unplug(self, eni: str) -> None:
        """Its device vanishes, wherever it is by now."""
        self._guards.pop(eni, None)
        if (port := self.ports.get(eni)) is not None:
            await self.inside_vpc(_unplug, port, self._change(port, None))

    def _any_link_gone(self) -> None:
        for eni in tuple(self.ports):
            self._link_gone(eni)

    def _link_gone(self, name: str) -> None:
        """An ENI that is still plugged in as far as the cloud is concerned comes home to its node."""
        task = asyncio.get_running_loop().create_task(self._bring_home(name), name=f"home-{name}")
        self._coming_home.add(task)
        task.add_done_callback(self._came_home)

    async def _bring_home(self, name: str) -> None:
        """Asked when the task runs, not when it was made: in between, the cloud may have unplugged the ENI."""
        if (port := self.ports.get(name)) is not None and port.node in self._nodes:
            await self.inside_vpc(self._come_home, port)

    def _came_home(self, task: asyncio.Task[None]) -> None:
        self._coming_home.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("eni_not_home", task=task.get_name(), because=str(error))

    def _come_home(self, port: Port) -> None:
        if port.eni not in _device_names():
            self._plug(port, [], primary=False, prefix="dev")

    async def assign(self, eni: str, addresses: tuple[Ip | Cidr, ...]) -> None:
        """Packets from and for these addresses and prefixes pass from now on."""
        port = self._port(eni)
        fresh = tuple(a for a in addresses if a not in port.addresses)
        await self._become(port, msgspec.structs.replace(port, addresses=port.addresses + fresh))

    async def unassign(self, eni: str, addresses: tuple[Ip | Cidr, ...]) -> None:
        """They no longer pass."""
        port = self._port(eni)
        kept = tuple(a for a in port.addresses if a not in addresses)
        await self._become(port, msgspec.structs.replace(port, addresses=kept))

    async def _become(self, before: Port, after: Port) -> None:
        await self.inside_vpc(_become, before, after, self._change(before, after))

    def _change(self, before: Port | None, after: Port | None) -> list[str]:
        """nft: one port is another now, in memory from here on. A combination of groups exists while a port has it."""
        used = {port.groups for port in self.ports.values()}
        if after is not None:
            self.ports[after.eni] = after
        elif before is not None:
            del self.ports[before.eni]
        lines = []
        if after is not None and after.groups and after.groups not in used:
            lines += self._chains(after.groups)
        lines += firewall.change(before, after)
        if before is not None and before.groups and before.groups not in {p.groups for p in self.ports.values()}:
            lines += no_chains(firewall.TABLE, before.groups)
        return lines

    def _chains(self, combination: tuple[str, ...]) -> list[str]:
        return chains(firewall.TABLE, [self._groups[group] for group in combination])

    # ---- security groups

    async def define_group(self, group: SecurityGroup) -> None:
        """These are its rules from now on, for new connections."""
        self._groups[group.id] = group
        lines = members(firewall.TABLE, [group])
        for combination in {port.groups for port in self.ports.values() if group.id in port.groups}:
            lines += self._chains(combination)
        await self.inside_vpc(kernel.nft, lines)

    async def forget_group(self, group: str) -> None:
        """Nobody is in it, and no rule names it."""
        if self._groups.pop(group, None) is not None:
            await self.inside_vpc(kernel.nft, [f"delete set {firewall.TABLE} {group}"])

    async def guard(self, eni: str, groups: tuple[str, ...]) -> None:
        """It is in these groups from now on, or from when it is plugged in. Raises NotFound for an unknown one."""
        if unknown := [name for name in groups if name not in self._groups]:
            raise NotFound(f"there is no security group {', '.join(unknown)}")
        self._guards[eni] = combination = tuple(sorted(set(groups)))
        if (port := self.ports.get(eni)) is not None:
            await self._become(port, msgspec.structs.replace(port, groups=combination))

    # ---- the VPC's route table

    async def route(self, destination: Cidr, eni: str | None) -> None:
        """Packets for `destination` go to this ENI while it is plugged in, and it may send from there; None: nobody."""
        before = self._routes.pop(destination, None)
        if eni is not None:
            self._routes[destination] = eni
        await self.inside_vpc(kernel.nft, firewall.routed(list(self._routes)))
        if before != eni and (old := self.ports.get(before or "")) is not None:
            routed = tuple(cidr for cidr in old.routed if cidr != destination)
            await self._become(old, msgspec.structs.replace(old, routed=routed))
        if (new := self.ports.get(eni or "")) is not None and destination not in new.routed:
            await self._become(new, msgspec.structs.replace(new, routed=(*new.routed, destination)))

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
        return await self.inside_vpc(survey.counters, eni)

    async def links(self, node: str) -> list[Link]:
        """What a node's namespace holds now."""
        if (namespace := self._nodes.get(node)) is None:
            raise NotFound(f"there is no node {node}")
        return await self.inside_vpc(kernel.inside, namespace, survey.links)

    async def vpc_links(self) -> list[Link]:
        """What the VPC's namespace holds now."""
        return await self.inside_vpc(survey.links)

    async def delivered(self) -> dict[Ip | Cidr, str]:
        """Address, prefix or routed destination to the ENI that the kernel delivers it to now."""
        return await self.inside_vpc(survey.delivered, tuple(self._routes))

    async def guards(self) -> dict[str, tuple[str, ...]]:
        """ENI to the security groups whose rules the kernel applies to it now, in order of their names."""
        return await self.inside_vpc(survey.guards)


def _become(before: Port, after: Port, lines: list[str]) -> None:
    kernel.nft(lines)
    if after.eni in _device_names():  # else its routes have gone with it
        kernel.ip(script.ways(before, after))
    conntrack.forget(set(before.ranges).difference(after.ranges))


def _unplug(port: Port, lines: list[str]) -> None:
    kernel.nft(lines)
    if port.eni in _device_names():  # the device's own namespace may have ended, and the link with it
        kernel.ip([f"link delete {port.eni}"])
    conntrack.forget(port.ranges)


def _listening(address: Ip, port: int) -> socket.socket:
    listener = socket.create_server((address, port), backlog=256)
    listener.setblocking(False)
    return listener


def _prepare_node() -> None:
    kernel.write_sysctls(script.NODE_SYSCTLS)
    kernel.ip(["link set lo up"])


def _device_names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def _set_up_primary(port: Port) -> None:
    [device] = (link.name for link in survey.links() if link.mac == port.mac)
    kernel.ip(script.primary_interface(port, device))
