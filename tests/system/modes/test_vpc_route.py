"""What only mode vpc-route has: an entry of the VPC's route table, and the node's address on what leaves the VPC."""

import asyncio
import subprocess
import sys

import pytest

from compose.lab import control, services
from compose.lab.sandbox import Sandbox
from shared.model import Mode
from tests.system.modes.site import Site, eventually

ONLY = Mode.VPC_ROUTE
pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

Crew = dict[str, Sandbox]

_CALL = """
import sys
from aliyunsdkcore.client import AcsClient
from aliyunsdkvpc.request.v20160428.DeleteRouteEntryRequest import DeleteRouteEntryRequest
key, secret, host, region, table, cidr, hop = sys.argv[1:]
request = DeleteRouteEntryRequest()
request.set_endpoint(host)
request.set_RouteTableId(table)
request.set_DestinationCidrBlock(cidr)
request.set_NextHopId(hop)
AcsClient(key, secret, region).do_action_with_exception(request)
"""


async def delete_entry(site: Site, cidr: str, node: str) -> None:
    """As somebody at the console, by the cloud's own client, which has to be inside the VPC."""
    about, facts = site.record.about, site.record.facts(node)
    arguments = [
        str(about["access_key_id"]),
        str(about["access_key_secret"]),
        str(about["openapi"]).removeprefix("http://"),
        facts.zone.rpartition("-")[0],
        "vtb-lab",
        cidr,
        facts.instance_id,
    ]
    netns = site.node(node).netns
    command = ["nsenter", f"--net={netns}", sys.executable, "-c", _CALL, *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def captured(site: Site, source: str, target: str) -> list[str]:
    """Source and destination of the first packets of a question, as they leave the node of pod a."""
    async with control.connect(site.layout.cloud_socket) as cloud:
        [node] = [one for one in (await cloud.state())["nodes"] if one["name"] == "node1"]
        about = {"eni": node["primary_eni"], "filter": "tcp[tcpflags] == tcp-syn"}
        capture = await cloud.send("POST", "/captures", about)
        assert await site.by(source, f"{target}:80/tcp") == target
        packets: list[str] = (await cloud.send("DELETE", f"/captures/{capture['id']}"))["packets"]
    return [packet.split("): ")[1].split(": Flags")[0] if "): " in packet else packet for packet in packets]


async def test_pods_are_met_by_their_own_addresses_in_the_vpc_and_by_the_nodes_outside(site: Site, crew: Crew) -> None:
    [a], [c] = crew["a"].addresses, crew["c"].addresses
    node1, node2 = site.address("node1"), site.address("node2")
    for target, source, destination in (
        ("default/c", a, c),
        ("node2", a, node2),
        ("outside", node1, "203.0.113.10"),
    ):
        packets = " ".join(await captured(site, "default/a", target))
        assert f" {source}." in f" {packets}" and f"> {destination}." in packets, (target, packets)
        other = a if source == node1 else node1
        assert f" {other}." not in f" {packets}", (target, packets)


@pytest.mark.parametrize("source", ["node2", "pod a"])
async def test_a_packet_for_nobody_does_not_go_to_and_fro(source: str, site: Site, crew: Crew) -> None:
    """The VPC hands all of a node's range to the node; what no pod has is unreachable, said by that node."""
    nobody = f"{site.node('node1').pod_cidrs[0].rpartition('.')[0]}.253"
    netns = site.node("node2").netns if source == "node2" else crew["a"].entry
    command = ["nsenter", f"--net={netns}", "ping", "-c", "1", "-W", "20", nobody]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert f"From {site.address('node1')}" in done.stdout and "Host Unreachable" in done.stdout, done.stdout


async def test_an_entry_that_somebody_deletes_is_put_back_and_people_hear_of_it(site: Site, crew: Crew) -> None:
    [cidr] = site.node("node1").pod_cidrs[:1]
    assert await site.by("node2", "default/a:80/tcp") == "default/a"
    await delete_entry(site, cidr, "node1")
    await eventually(lambda: site.by("node2", "default/a:80/tcp"), "default/a", within_s=30)
    said = services.ask(site.node("node1"), services.named("eni_manager"), "/state")[1]["notices"]
    assert any(f"leads {cidr} here is gone" in notice["what"] for notice in said)
