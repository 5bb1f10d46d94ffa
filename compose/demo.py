"""`make demo`: the main job, end to end, on this machine: a VPC of real packets, two nodes, containerd pods that talk.

Every check is one line, made when it has been made. The last line says how many passed, and only when all did
is the exit code 0. Whatever happens, Ctrl-C included, the lab is taken down.
"""

import asyncio
import errno
import os
import shutil
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import click
import msgspec

from compose import demo_guest
from compose.lab import audit, control, kernel, lab, leftovers, services
from compose.lab.layout import Layout
from compose.lab.pods import PodInfo, Pods
from compose.lab.reach import OUTSIDE, reach
from compose.lab.record import Options, Record, Runtime, Stack
from compose.lab.serve import Port
from shared.errors import SuiteError
from shared.model import Mode, PodKey

Check = Callable[[], Awaitable[str]]
NAME = "demo"
PODS = {"a1": "node1", "a2": "node1", "b1": "node2", "b2": "node2"}
PROGRAMS = ("containerd", "ctr", "runc", "nft", "ip", "bridge", "nsenter", "tcpdump")


class Failed(Exception):
    """A check that did not hold; the text says what was found instead."""


class Demo:
    """The checks, in the order in which they are made; each returns what it saw or raises."""

    def __init__(
        self,
        say: Callable[[str], None],
        mode: Mode = Mode.SHARED_VETH,
        stack: Stack = "ipv4",
        runtime: Runtime = "containerd",
    ) -> None:
        self._say, self._mode, self._stack, self._runtime = say, mode, stack, runtime
        self._layout = Layout.of(NAME)
        self._made: Record | None = None
        self._pods: dict[str, PodInfo] = {}
        self._machine: dict[str, Any] = {}

    @property
    def _there(self) -> Record:
        if self._made is None:
            raise Failed("there is no lab")
        return self._made

    def _pod(self, name: str) -> PodInfo:
        if name not in self._pods:
            raise Failed(f"pod {name} does not run")
        return self._pods[name]

    def _address(self, name: str, *, ipv6: bool = False) -> str:
        for address in self._pod(name).addresses:
            if (":" in address) is ipv6:
                return address
        raise Failed(f"pod {name} has {self._pod(name).addresses}")

    def _open(self) -> Pods:
        return Pods(self._layout, {facts.name: self._there.options.runtime for facts in self._there.nodes})

    def checks(self) -> list[tuple[str, Check]]:
        """All of them."""
        made: list[tuple[str, Check]] = [("the lab comes up", self.up)]
        by = "containerd's CRI" if self._runtime == "containerd" else "a CNI runtime"
        made += [(f"pod {name} runs on {node} by {by}", self._runner(name)) for name, node in PODS.items()]
        made += [
            self._whose(),
            ("each lease is in ipam's /state", self.leased),
        ]
        for what, left, right in (("same node", "a1", "a2"), ("across nodes", "a1", "b1")):
            for source, target in ((left, right), (right, left)):
                made.append((f"{what}: {source} pings {target}", self._pinger(source, target)))
                made.append((f"{what}: {source} reaches {target} by TCP", self._connector(source, target)))
        made += self._in_ipv6() if self._stack == "dual" else []
        made += [
            (
                "a packet across nodes leaves by the ENI that the VPC lets its source leave by, untunnelled",
                self.captured,
            ),
            ("a pod reaches a host outside the VPC", self._connector("a2", OUTSIDE)),
            ("runtime, leases, wiring, kernel and cloud agree", self.agrees),
            ("pods are deleted and their addresses are back in the pool", self.returned),
            ("no link, route or rule of a pod is left on a node", self.unwired),
            ("the lab goes down and leaves no namespace", self.down),
            ("no process is left", self.no_processes),
            ("no mount, cgroup or file is left", self.no_files),
            ("this machine's own links, rules and nftables are as they were", self.machine_untouched),
        ]
        return made

    def _in_ipv6(self) -> list[tuple[str, Check]]:
        """What dual stack adds."""
        made: list[tuple[str, Check]] = []
        if self._mode is not Mode.VPC_ROUTE:
            made.append(("each pod's IPv6 address is of the same ENI as its IPv4 address", self.paired))
        for source, target in (("a1", "a2"), ("a1", "b1"), ("b1", "a1")):
            made.append((f"IPv6: {source} pings {target}", self._pinger(source, target, ipv6=True)))
            made.append((f"IPv6: {source} reaches {target} by TCP", self._connector(source, target, ipv6=True)))
        made.append(("IPv6: a pod reaches a host outside the VPC", self._connector("a2", OUTSIDE, ipv6=True)))
        return made

    # ---- up

    async def up(self) -> str:
        """Everything of the lab."""
        self._machine = await _machine()
        await lab.down(self._layout, say=self._say)  # what a killed demo left
        options = Options(mode=self._mode, stack=self._stack, runtime=self._runtime)
        self._made = await lab.up(self._layout, options, say=self._say)
        return ", ".join(f"{node.name} {node.primary_ip} in {node.vswitch}" for node in self._made.nodes)

    def _runner(self, name: str) -> Check:
        async def run() -> str:
            async with self._open() as pods:
                self._pods[name] = info = await pods.add(
                    PodKey("default", name), node=PODS[name], ports=[Port(80, "tcp")]
                )
            assert info.sandbox is not None
            process = f", process {info.sandbox.pid}" if info.sandbox.pid else ""
            return f"{info.addresses[0]}, sandbox {info.sandbox.id[:12]}{process}"

        return run

    # ---- whose addresses these are

    def _whose(self) -> tuple[str, Check]:
        if self._mode is Mode.VPC_ROUTE:
            return "each address is of its node's own range, which the VPC's route table leads there", self.routed
        return "each address is one that the cloud assigned to an ENI for pods of that node", self.assigned

    async def routed(self) -> str:
        """The node's object, the entry of the route table, and what the fabric's kernel delivers."""
        async with control.connect(self._layout.cloud_socket) as cloud:
            found = await cloud.audit()
        seen = {}
        for name, node in PODS.items():
            [cidr] = self._layout.node(node).pod_cidrs[:1]
            if ip_address(self._address(name)) not in ip_network(cidr):
                raise Failed(f"{self._address(name)} of {name} is not in {cidr} of {node}")
            primary = self._owner(found["enis"], self._there.facts(node).primary_ip)["id"]
            if found["delivered"].get(cidr) != primary:
                raise Failed(f"{cidr} is delivered to {found['delivered'].get(cidr)}, not to {primary} of {node}")
            seen[cidr] = primary
        return ", ".join(f"{cidr} to {eni}" for cidr, eni in seen.items())

    def _owner(self, enis: Sequence[dict[str, Any]], address: str) -> dict[str, Any]:
        """The interface that an address is assigned to."""
        for eni in enis:
            if address in eni["ipv4"]:
                return eni
        raise Failed(f"{address} is assigned to no interface")

    async def assigned(self) -> str:
        """Account of the cloud, and what the fabric's kernel delivers."""
        async with control.connect(self._layout.cloud_socket) as cloud:
            found = await cloud.audit()
        seen = []
        for name, node in PODS.items():
            address = self._address(name)
            (eni,) = [eni for eni in found["enis"] if address in eni["ipv4"]] or [None]
            if eni is None or eni["instance"] != self._there.facts(node).instance_id or eni["type"] != "Secondary":
                raise Failed(f"{address} of {name} belongs to {eni}")
            if found["delivered"].get(address) != eni["id"]:
                raise Failed(f"{address} is delivered to {found['delivered'].get(address)}, not to {eni['id']}")
            seen.append(f"{address} of {eni['id']}")
        return ", ".join(seen)

    async def paired(self) -> str:
        """Account of the cloud, and what the fabric's kernel delivers."""
        async with control.connect(self._layout.cloud_socket) as cloud:
            found = await cloud.audit()
        seen = []
        for name in PODS:
            four, six = self._address(name), self._address(name, ipv6=True)
            eni = self._owner(found["enis"], four)
            if six not in eni["ipv6"] or found["delivered"].get(six) != eni["id"]:
                raise Failed(f"{six} of {name} is delivered to {found['delivered'].get(six)}, {four} is of {eni['id']}")
            seen.append(f"{six} of {eni['id']}")
        return ", ".join(seen)

    async def leased(self) -> str:
        """The state page of each node's ipam."""
        for name, node in PODS.items():
            leases = self._ipam(node)["leases"]
            held = [(lease["pod"]["name"], lease["ipv4"]) for lease in leases if lease["ipv4"] == self._address(name)]
            if held != [(name, self._address(name))]:
                raise Failed(f"{node} has {held} for {name}")
        return f"{len(PODS)} leases"

    def _ipam(self, node: str) -> dict[str, Any]:
        status, state = services.ask(self._layout.node(node), services.named("ipam"), "/state")
        if status != 200:
            raise Failed(f"ipam on {node} answers with status {status}: {state}")
        return state

    # ---- traffic

    def _pinger(self, source: str, target: str, *, ipv6: bool = False) -> Check:
        async def ping() -> str:
            async with self._open() as pods:
                done = await pods.exec(
                    PodKey("default", source),
                    ["ping", "-c", "3", "-i", "0.2", "-W", "2", self._address(target, ipv6=ipv6)],
                )
            said = done.stdout.decode().strip().splitlines()
            if done.code != 0 or not any(" 0% packet loss" in line for line in said):
                raise Failed("; ".join(said) or done.stderr.decode())
            return said[-1]

        return ping

    def _connector(self, source: str, target: str, *, ipv6: bool = False) -> Check:
        async def connect() -> str:
            name = f"default/{target}" if target in PODS else target
            self._pod(source)
            async with self._open() as pods:
                answer = await reach(
                    self._layout, self._there, pods, source=f"default/{source}", target=f"{name}:80/tcp", ipv6=ipv6
                )
            if not answer.reached or answer.by != name or answer.source != self._address(source, ipv6=ipv6):
                raise Failed(str(answer))
            return f"{answer.source} -> {answer.address} port 80 in {answer.took_ms} ms, answered by {answer.by}"

        return connect

    async def captured(self) -> str:
        """Frames as they leave the node by the ENI, seen on the fabric's side."""
        source, target = self._address("a1"), self._address("b1")
        async with control.connect(self._layout.cloud_socket) as cloud:
            enis = (await cloud.audit())["enis"]
            by_route = self._mode is Mode.VPC_ROUTE
            eni = self._owner(enis, self._there.facts(PODS["a1"]).primary_ip if by_route else source)
            capture = await cloud.send("POST", "/captures", {"eni": eni["id"], "filter": "ether proto 0x0800"})
            await self._pinger("a1", "b1")()
            packets: list[str] = (await cloud.send("DELETE", f"/captures/{capture['id']}"))["packets"]
        # tcpdump -e: MAC > MAC, ethertype, length, then what the frame carries.
        requests = [line for line in packets if f"{source} > {target}: ICMP echo request" in line]
        if len(requests) != 3 or not all(f"{eni['mac']} > " in line for line in requests):
            raise Failed(f"expected 3 echo requests from {eni['mac']}: {packets}")
        if not all("ethertype IPv4" in line and "length 98" in line for line in requests):
            raise Failed(f"a header that is not the pod's own: {requests}")
        return f"3 plain frames from {eni['mac']} ({eni['id']}), {source} > {target}"

    async def agrees(self) -> str:
        """The audit."""
        found = await audit.until_clean(self._layout, self._there)
        rules = sum(len(node.kernel.rules) for node in found.nodes.values())
        return f"{sum(len(node.leases) for node in found.nodes.values())} leases, {rules} rules, no difference"

    # ---- the way back

    async def returned(self) -> str:
        """Every pod, then ipam's counts."""
        held = {name: self._address(name) for name in self._pods}
        async with self._open() as pods:
            for name in PODS:
                await pods.delete(PodKey("default", name))
        for name, address in held.items():
            state = self._ipam(PODS[name])
            entry = state["addresses"].get(address, {})
            if state["counts"]["used"] or entry.get("state") not in ("idle", "cooling"):
                raise Failed(f"{address} of {name} is {entry or 'not in the pool'}, {state['counts']}")
        counts = {node: self._ipam(node)["counts"] for node in sorted(set(PODS.values()))}
        return "; ".join(
            f"{node}: {count['used']} used, {count['idle']} idle, {count['cooling']} resting"
            for node, count in counts.items()
        )

    async def unwired(self) -> str:
        """The kernel, and once more everything against everything."""
        await audit.until_clean(self._layout, self._there)
        for facts in self._there.nodes:
            found = await kernel.read(self._layout.node(facts.name).netns_name)
            if found.links or found.rules or found.routes:
                raise Failed(f"{facts.name}: {found}")
        return "none on any node"

    async def down(self) -> str:
        """Take the lab down."""
        await lab.down(self._layout, say=self._say)
        return _none(leftovers.namespaces(self._layout))

    async def no_processes(self) -> str:
        """By command line."""
        return _none(leftovers.processes(self._layout))

    async def no_files(self) -> str:
        """Below /run and /sys/fs/cgroup."""
        return _none(leftovers.files(self._layout))

    async def machine_untouched(self) -> str:
        """The namespace in which this runs."""
        after = await _machine()
        for what, before in self._machine.items():
            if after[what] != before:
                raise Failed(f"{what}: {before} became {after[what]}")
        return ", ".join(self._machine)

    async def clean_up(self) -> None:
        """Whatever is left, after a failure or Ctrl-C."""
        await lab.down(self._layout, say=self._say)


def _none(found: list[str]) -> str:
    if found:
        raise Failed("; ".join(found))
    return "none"


async def _machine() -> dict[str, Any]:
    """What the lab must not touch."""
    seen: dict[str, Any] = {}
    for what, argv in {
        "links": ("ip", "-j", "link", "show"),
        "rules": ("ip", "-j", "rule", "show"),
        "nftables": ("nft", "-j", "list", "ruleset"),
    }.items():
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        stdout, _ = await process.communicate()
        seen[what] = msgspec.json.decode(stdout or b"[]")
    seen["links"] = sorted(link["ifname"] for link in seen["links"])
    return seen


async def run(mode: Mode, stack: Stack = "ipv4", runtime: Runtime = "containerd") -> int:
    """Make all checks; the exit code."""
    began = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"       {time.monotonic() - began:5.1f}s  {line}", err=True)

    demo = Demo(say, mode, stack, runtime)
    passed = 0
    checks = demo.checks()
    try:
        for number, (title, check) in enumerate(checks, start=1):
            try:
                detail = await check()
                passed += 1
                click.echo(f"ok   {number:2}  {title}: {detail}")
            except (Failed, SuiteError, OSError, LookupError, ValueError, TypeError) as error:
                click.echo(f"FAIL {number:2}  {title}: {type(error).__name__}: {error}")
    finally:
        await demo.clean_up()
    click.echo(f"demo: {passed} of {len(checks)} checks passed")
    return 0 if passed == len(checks) else 1


@click.command()
@click.option(
    "--mode", type=click.Choice([mode.value for mode in Mode]), default=Mode.SHARED_VETH.value, show_default=True
)
@click.option("--stack", type=click.Choice(["ipv4", "dual"]), default="ipv4", show_default=True)
@click.option("--runtime", type=click.Choice(["containerd", "cni"]), default="containerd", show_default=True)
def main(mode: str, stack: Stack, runtime: Runtime) -> None:
    """The main job, end to end, on this machine; in a guest on it where its kernel cannot carry the mode."""
    sys.exit(demonstrate(Mode(mode), stack, runtime))


def demonstrate(mode: Mode, stack: Stack = "ipv4", runtime: Runtime = "containerd") -> int:
    """What `python -m compose.demo` does; the exit code."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        click.echo(f"demo: needs root{' and ' + ', '.join(missing) if missing else ''}; see deploy/", err=True)
        return 1
    if lacking := demo_guest.lacking(mode):
        return demo_guest.run(mode, stack, runtime, lacking)
    with socket.socket(socket.AF_UNIX) as alone:
        try:
            alone.bind(f"\0terway-lab-{NAME}")  # an abstract name is a lock that no crash leaves behind
            return asyncio.run(run(mode, stack, runtime))
        except KeyboardInterrupt:
            click.echo("demo: interrupted; the lab is down", err=True)
            return 130
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            click.echo("demo: another demo runs on this machine", err=True)
            return 1


if __name__ == "__main__":
    main()
