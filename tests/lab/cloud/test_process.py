"""The cloud as a process: a node calls the signed API through the fabric and gets a device; the end leaves nothing."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import CommonRequest

from compose.lab.cloud.server import READY_FILE, About
from compose.lab.fabric import kernel, names
from compose.lab.waiting import until
from shared.model import Ip

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]

MACS = "/latest/meta-data/network/interfaces/macs"


class Lab:
    """A cloud process of its own, and ways to talk to it from outside and from a node."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.command = [sys.executable, "-m", "compose.lab.cloud", "--name", name, "--state-dir", str(folder)]
        self.process: asyncio.subprocess.Process | None = None
        self.about: About | None = None

    async def start(self) -> None:
        self.process = process = await asyncio.create_subprocess_exec(*self.command, stderr=subprocess.DEVNULL)
        ready = self.folder / READY_FILE

        async def missing() -> str:
            if not ready.exists():
                return "no ready file"
            self.about = msgspec.json.decode(ready.read_bytes(), type=About)
            return "" if self.about.pid == process.pid else "a ready file that a killed one left"

        await until(missing, what="the lab's cloud", within_s=20)

    async def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(how)
        return await self.process.wait()

    async def again(self, *options: str) -> tuple[int, str]:
        """A second process of the same name, to its end."""
        process = await asyncio.create_subprocess_exec(
            *self.command, *options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    async def control(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(str(self.folder / "cloud.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://cloud{path}", json=body) as answer,
        ):
            return answer.status, await answer.json()

    async def on(self, node: str, act: Callable[[], Any]) -> Any:
        """Do something blocking in a node's namespace."""
        return await asyncio.to_thread(kernel.inside, names.namespace(self.name, node), act)

    async def api(self, node: str, action: str, **parameters: object) -> dict[str, Any]:
        """The official client, on a node."""
        about = self.about
        assert about is not None

        def call() -> dict[str, Any]:
            client = AcsClient(about.access_key_id, about.access_key_secret, about.region, auto_retry=False)
            request = CommonRequest(
                domain=about.openapi.removeprefix("http://"), version="2014-05-26", action_name=action
            )
            request.set_method("POST")
            request.set_protocol_type("http")
            for name, value in parameters.items():
                request.add_query_param(name.replace("_", "."), value)
            try:
                answer: dict[str, Any] = json.loads(client.do_action_with_exception(request))
                return answer
            finally:
                client.session.close()

        return await self.on(node, call)  # type: ignore[no-any-return]

    async def metadata(self, node: str, path: str) -> str:
        def get() -> str:
            done = subprocess.run(
                ["curl", "-sf", f"http://100.100.100.200{path}"], capture_output=True, text=True, check=False
            )
            return done.stdout

        text: str = await self.on(node, get)
        return text

    async def problems(self) -> list[str]:
        _, audit = await self.control("GET", "/audit")
        found: list[str] = audit["problems"]
        return found


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(f"t{secrets.token_hex(4)}", tmp_path)
    await lab.start()
    yield lab
    await lab.end(signal.SIGKILL)
    code, said = await lab.again("--cleanup")
    assert code == 0, said
    assert names.existing(lab.name) == []


async def settled(missing: Callable[[], Awaitable[str]], what: str) -> None:
    await until(missing, what=what, within_s=5, every_s=0.02)


async def test_from_a_call_on_a_node_to_a_device_and_back(lab: Lab) -> None:
    for node, zone in (("node1", "cn-lab-a"), ("node2", "cn-lab-b")):
        status, made = await lab.control("POST", "/nodes", {"name": node, "zone": zone})
        assert (status, made["netns"], made["zone"]) == (200, names.namespace(lab.name, node), zone)
        assert await lab.control("POST", "/nodes", {"name": node, "zone": zone}) == (200, made), "asking again"
        assert await lab.metadata(node, "/latest/meta-data/instance-id") == made["instance_id"], "a view per node"
    _, nodes = await lab.control("GET", "/nodes")
    instance = nodes[0]["instance_id"]

    eni = await lab.api(
        "node1",
        "CreateNetworkInterface",
        VSwitchId="vsw-lab-a",
        SecurityGroupId="sg-lab",
        SecondaryPrivateIpAddressCount=2,
    )
    eni_id, mac = eni["NetworkInterfaceId"], eni["MacAddress"]
    await lab.api("node1", "AttachNetworkInterface", NetworkInterfaceId=eni_id, InstanceId=instance)

    async def listed() -> str:
        return "" if await lab.metadata("node1", f"{MACS}/{mac}/network-interface-id") == eni_id else "not in metadata"

    await settled(listed, "the ENI in the metadata")
    _, audit = await lab.control("GET", "/audit")
    assert audit["problems"] == []
    assert [(d["name"], d["mac"]) for d in audit["nodes"]["node1"]][2:] == [("eth1", mac)]
    addresses = [a["PrivateIpAddress"] for a in eni["PrivateIpSets"]["PrivateIpSet"]]
    assert [address for address, owner in audit["delivered"].items() if owner == eni_id] == addresses

    # A packet from one of its addresses leaves by it, and the counters and a capture say so.
    await lab.on("node1", lambda: kernel.ip(own_table(Ip(addresses[1]))))
    _, capture = await lab.control("POST", "/captures", {"eni": eni_id, "filter": "icmp"})
    assert await lab.on("node1", lambda: ping(addresses[1], nodes[1]["primary_ip"]))
    _, packets = await lab.control("DELETE", f"/captures/{capture['id']}")
    assert len(packets["packets"]) == 2 and mac in packets["packets"][0]
    _, counters = await lab.control("GET", f"/enis/{eni_id}/counters")
    assert counters["sent"][addresses[1]]["packets"] == 1

    await lab.api("node1", "DetachNetworkInterface", NetworkInterfaceId=eni_id, InstanceId=instance)

    async def detached() -> str:
        found = await lab.api("node1", "DescribeNetworkInterfaces", NetworkInterfaceId_1=eni_id)
        status: str = found["NetworkInterfaceSets"]["NetworkInterfaceSet"][0]["Status"]
        return "" if status == "Available" else status

    await settled(detached, "the ENI detached")
    _, audit = await lab.control("GET", "/audit")
    assert [d["name"] for d in audit["nodes"]["node1"]] == ["lo", "eth0"], "gone when the status says so"
    assert await lab.control("DELETE", "/nodes/node1") == (200, {})
    assert await lab.control("DELETE", "/nodes/node1") == (200, {})
    assert names.namespace(lab.name, "node1") not in names.existing(lab.name)
    assert await lab.problems() == []


def own_table(address: Ip) -> list[str]:
    return [
        f"address add {address}/32 dev lo",
        "link set eth1 up",
        "route add default via 192.168.15.253 dev eth1 onlink table 1001",
        f"rule add from {address} lookup 1001",
    ]


def ping(source: str, target: str) -> bool:
    return (
        subprocess.run(["ping", "-c1", "-W1", "-I", source, target], capture_output=True, check=False).returncode == 0
    )


async def test_the_kubernetes_api_is_on_the_fabric_and_on_a_socket(lab: Lab) -> None:
    assert lab.about is not None
    await lab.control("POST", "/nodes", {"name": "node1"})
    url = f"{lab.about.kubernetes}/api/v1/namespaces"
    done = await lab.on("node1", lambda: subprocess.run(["curl", "-sf", url], capture_output=True, check=True))
    connector = aiohttp.UnixConnector(lab.about.kubernetes_socket)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://k/api/v1/namespaces") as answer,
    ):
        assert json.loads(done.stdout)["items"] == (await answer.json())["items"]


async def test_faults_can_be_set_while_it_runs(lab: Lab) -> None:
    await lab.control("POST", "/nodes", {"name": "node1"})
    fault = {"action": "DescribeInstances", "code": "Throttling", "times": 1}
    status, added = await lab.control("POST", "/faults", fault)
    assert status == 200 and added["code"] == "Throttling"
    assert await lab.control("GET", "/faults") == (200, [added])
    with pytest.raises(Exception, match="Throttling"):
        await lab.api("node1", "DescribeInstances")
    assert (await lab.api("node1", "DescribeInstances"))["TotalCount"] == 1
    _, added = await lab.control("POST", "/faults", {"action": "*"})
    _, other = await lab.control("POST", "/faults", {"action": "metadata", "kind": "empty", "node": "node2"})
    assert await lab.control("DELETE", f"/faults?id={added['id']}") == (200, [added])
    assert await lab.control("GET", "/faults") == (200, [other])
    assert await lab.control("DELETE", "/faults") == (200, [other])
    assert await lab.control("GET", "/faults") == (200, [])
    assert (await lab.api("node1", "DescribeInstances"))["TotalCount"] == 1
    assert (await lab.control("POST", "/faults", {"kind": "error"}))[0] == 400
    for wrong in ({"action": "*", "kind": "nonsense"}, {"action": "device", "kind": "lost_answer"}):
        assert (await lab.control("POST", "/faults", wrong))[0] == 400


async def with_an_interface(lab: Lab) -> tuple[dict[str, Any], dict[str, Any]]:
    """A node and an interface on its way into it."""
    _, node = await lab.control("POST", "/nodes", {"name": "node1"})
    wanted = {"VSwitchId": "vsw-lab-a", "SecurityGroupId": "sg-lab", "SecondaryPrivateIpAddressCount": 1}
    eni = await lab.api("node1", "CreateNetworkInterface", **wanted)
    ids = {"NetworkInterfaceId": eni["NetworkInterfaceId"], "InstanceId": node["instance_id"]}
    await lab.api("node1", "AttachNetworkInterface", **ids)
    return node, eni


async def in_use(lab: Lab, eni: str) -> None:
    async def missing() -> str:
        found = await lab.api("node1", "DescribeNetworkInterfaces", NetworkInterfaceId_1=eni)
        status: str = found["NetworkInterfaceSets"]["NetworkInterfaceSet"][0]["Status"]
        return "" if status == "InUse" else status

    await settled(missing, "the interface in use")


async def devices(lab: Lab) -> list[str]:
    _, audit = await lab.control("GET", "/audit")
    return [link["name"] for link in audit["nodes"]["node1"]]


async def test_a_device_that_is_late_and_one_that_never_comes(lab: Lab) -> None:
    await lab.control("POST", "/faults", {"action": "device", "kind": "late", "delay_s": 0.5, "times": 1})
    _, eni = await with_an_interface(lab)
    await in_use(lab, eni["NetworkInterfaceId"])
    assert await devices(lab) == ["lo", "eth0"], "in use, says the cloud, and no device"
    ask = {"NetworkInterfaceId": eni["NetworkInterfaceId"], "SecondaryPrivateIpAddressCount": 1}
    assigned = await lab.api("node1", "AssignPrivateIpAddresses", **ask)
    (fresh,) = assigned["AssignedPrivateIpAddressesSet"]["PrivateIpSet"]["PrivateIpAddress"]

    async def absent() -> str:
        return "" if await devices(lab) == ["lo", "eth0", "eth1"] else "no device"

    await settled(absent, "the late device")
    _, audit = await lab.control("GET", "/audit")
    assert audit["problems"] == [] and audit["delivered"][fresh] == eni["NetworkInterfaceId"]

    await lab.control("POST", "/faults", {"action": "device", "kind": "never", "node": "node1"})
    _, other = await with_an_interface(lab)
    await in_use(lab, other["NetworkInterfaceId"])
    assert await lab.problems() == [
        f"{other['NetworkInterfaceId']} is InUse and has no device",
        *(
            f"{a['PrivateIpAddress']} is assigned to {other['NetworkInterfaceId']} and delivered to None"
            for a in other["PrivateIpSets"]["PrivateIpSet"]
        ),
    ]
    # It can be taken away again, though it has never come.
    await lab.control("POST", "/faults", {"action": "outside", "kind": "detach", "target": other["NetworkInterfaceId"]})

    async def there() -> str:
        return "; ".join(await lab.problems())

    await settled(there, "the interface gone")


async def test_hands_from_outside(lab: Lab) -> None:
    _, eni = await with_an_interface(lab)
    await in_use(lab, eni["NetworkInterfaceId"])
    gone = eni["PrivateIpSets"]["PrivateIpSet"][1]["PrivateIpAddress"]
    status, _ = await lab.control("POST", "/faults", {"action": "outside", "kind": "unassign", "target": gone})
    _, audit = await lab.control("GET", "/audit")
    assert status == 200 and gone not in audit["delivered"] and audit["problems"] == []
    status, said = await lab.control("POST", "/faults", {"action": "outside", "kind": "unassign", "target": gone})
    assert status == 400 and gone in said["message"]
    await lab.control("POST", "/faults", {"action": "outside", "kind": "detach", "target": eni["NetworkInterfaceId"]})

    async def there() -> str:
        return "" if await devices(lab) == ["lo", "eth0"] else "the device is there"

    await settled(there, "the device gone")


async def test_the_api_server_can_be_cut_off_slow_and_refusing(lab: Lab) -> None:
    assert lab.about is not None
    connector = aiohttp.UnixConnector(lab.about.kubernetes_socket)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def status() -> int:
            async with session.get("http://k/api/v1/namespaces") as answer:
                return answer.status

        assert await status() == 200
        await lab.control("POST", "/faults", {"action": "kubernetes", "status": 429, "code": "TooManyRequests"})
        assert (await status(), await status()) == (429, 200)
        _, cut = await lab.control("POST", "/faults", {"action": "kubernetes", "kind": "cut_off"})
        with pytest.raises(aiohttp.ClientConnectionError):
            await status()
        await lab.control("DELETE", f"/faults?id={cut['id']}")
        await lab.control("POST", "/faults", {"action": "kubernetes", "kind": "slow", "delay_s": 0.3})
        start = time.monotonic()
        assert await status() == 200 and time.monotonic() - start >= 0.3
        await lab.control("POST", "/faults", {"action": "kubernetes", "kind": "slow", "delay_s": 60})
        await lab.control("DELETE", "/faults")
        async with asyncio.timeout(30):
            assert await status() == 200
        await lab.control("POST", "/faults", {"action": "kubernetes", "kind": "compacted"})
        async with session.get("http://k/api/v1/pods?watch=1&resourceVersion=1") as answer:
            assert b"Expired" in await answer.content.readline() or answer.status == 410


async def test_the_api_server_ends_and_starts_again(lab: Lab) -> None:
    """Its ports are closed and its watches broken, not finished; then who comes back goes on from where he was, unless
    the past was forgotten meanwhile."""
    assert lab.about is not None
    file = lab.folder / "kubeconfig"
    on_machine = file.read_text().partition('server: "')[2].partition('"')[0]
    unix = aiohttp.UnixConnector(lab.about.kubernetes_socket)
    async with aiohttp.ClientSession() as tcp, aiohttp.ClientSession(connector=unix) as session:

        async def listed() -> str:
            async with session.get("http://k/api/v1/namespaces") as answer:
                return str((await answer.json())["metadata"]["resourceVersion"])

        async def made(name: str) -> None:
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            async with session.post("http://k/api/v1/namespaces", json=body) as answer:
                assert answer.status == 201

        version = await listed()
        watch = f"http://k/api/v1/namespaces?watch=1&resourceVersion={version}"
        async with session.get(watch) as running:
            _, down = await lab.control("POST", "/faults", {"action": "kubernetes", "kind": "down"})
            with pytest.raises(aiohttp.ClientError):
                await running.content.read()
        with pytest.raises(aiohttp.ClientConnectorError):
            await listed()
        with pytest.raises(aiohttp.ClientConnectorError):
            await tcp.get(f"{on_machine}/version")
        await lab.control("DELETE", f"/faults?id={down['id']}")
        await made("after")
        async with session.get(watch) as resumed:
            assert b'"after"' in await resumed.content.readline()
        async with tcp.get(f"{file.read_text().partition('server: ')[2].split(chr(34))[1]}/version") as answer:
            assert answer.status == 200
        await lab.control("POST", "/faults", {"action": "kubernetes", "kind": "down"})
        await lab.control("POST", "/faults", {"action": "kubernetes", "kind": "compacted"})
        await lab.control("DELETE", "/faults")
        async with session.get(watch) as forgotten:
            assert b"Expired" in await forgotten.content.readline() or forgotten.status == 410
        assert int(await listed()) > int(version)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("POST", "/nodes", {"name": "a/b"}, 400, "a/b"),
        ("POST", "/nodes", {"nom": "a"}, 400, "nom"),
        ("POST", "/nodes", {"name": "n", "zone": "cn-none"}, 404, "cn-none"),
        ("POST", "/nodes", {"name": "n", "instance_type": "ecs.none"}, 404, "ecs.none"),
        ("GET", "/enis/eni-none/counters", None, 404, "eni-none"),
        ("POST", "/captures", {"eni": "eni-none"}, 404, "eni-none"),
        ("DELETE", "/captures/7", None, 404, "7"),
    ],
)
async def test_what_the_control_interface_refuses(
    lab: Lab, method: str, path: str, body: object, status: int, word: str
) -> None:
    got, answer = await lab.control(method, path, body)
    assert got == status and word in answer["message"]
    assert (await lab.control("GET", "/nodes"))[1] == []


async def test_it_ends_cleanly_and_soon(lab: Lab) -> None:
    await lab.control("POST", "/nodes", {"name": "node1"})
    start = time.monotonic()
    assert await lab.end(signal.SIGTERM) == 0
    assert time.monotonic() - start < 3
    assert names.existing(lab.name) == []
    assert sorted(p.name for p in lab.folder.iterdir()) == ["cloud.lock"]


async def test_a_second_one_is_refused_and_a_killed_one_is_replaced(lab: Lab) -> None:
    await lab.control("POST", "/nodes", {"name": "node1"})
    for options in ((), ("--cleanup",)):
        code, said = await lab.again(*options)
        assert code == 1 and "runs already" in said
    assert await lab.problems() == [], "the first one is not disturbed"
    await lab.end(signal.SIGKILL)
    assert len(names.existing(lab.name)) == 3, "killed, so nothing was removed"
    await lab.start()
    assert len(names.existing(lab.name)) == 2
    await lab.end(signal.SIGKILL)
    code, said = await lab.again("--cleanup")
    assert code == 0 and f"removed tw-{lab.name}-vpc" in said
    assert names.existing(lab.name) == []
