"""The policy service as a process beside an API server: off asks nothing, observe calculates and can be asked."""

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click.testing

from services.ctl import main
from services.policy.core.profiles import FELIX_3_24_5
from shared.contracts import policy as contract
from shared.model import AttachmentKey, Ip, Mode, PodKey
from shared.rpc.client import Client
from tests.policy.adapters.world import CLUSTER, World, calico, crd
from tests.policy.test_service import KEY, answering, http_port, policy


def write_config(folder: Path, server: str, **policy: object) -> Path:
    path = folder / "config.json"
    node = {"run_dir": str(folder), "state_dir": str(folder), "node_name": "node1", "kube": {"server": server}}
    path.write_text(json.dumps({"node": node, "policy": {"http_port": 0} | policy}))
    return path


def fetch(url: str, *, method: str = "GET") -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
            body = answer.read()
            return answer.status, json.loads(body) if body.startswith((b"{", b"[")) else body.decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


async def get(url: str, *, method: str = "GET") -> tuple[int, Any]:
    return await asyncio.to_thread(fetch, url, method=method)


def attach(key: AttachmentKey) -> contract.Attach:
    return contract.Attach(
        key=key,
        pod=PodKey("shop", "web-1"),
        pod_uid="",
        mode=Mode.SHARED_VETH,
        host_link="calic048fd9a750",
        addresses=(Ip("10.0.0.1"),),
        netns="/run/netns/a",
    )


async def test_off_asks_the_api_server_nothing(tmp_path: Path) -> None:
    world = World(FELIX_3_24_5)
    async with world.serving() as server:
        config = write_config(tmp_path, server)
        async with policy(config) as process, Client(tmp_path / "policy.sock") as client:
            port = await http_port(process)
            await answering(client)
            assert not (await client.call(contract.ATTACH, attach(KEY))).enforced
            assert (await get(f"http://127.0.0.1:{port}/readyz"))[0] == 200
            status, _ = await get(f"http://127.0.0.1:{port}/policy/dump")
            assert status == 404
            result = await asyncio.to_thread(
                click.testing.CliRunner().invoke, main, ["policy", "dump", "--url", f"http://127.0.0.1:{port}"]
            )
            assert "network_policy is off on this node" in result.output
        assert world.asked == []


async def test_observe(tmp_path: Path) -> None:
    world = World(FELIX_3_24_5)
    async with world.serving() as server:
        bad = calico("GlobalNetworkPolicy", "bad", {"selector": "a ==", "ingress": [{"action": "Deny"}]})
        await world.apply(*CLUSTER, crd("GlobalNetworkPolicy"), bad)
        world.blocked = {"/api/v1/pods"}
        async with policy(write_config(tmp_path, server, network_policy="observe")) as process:
            base = f"http://127.0.0.1:{await http_port(process)}"
            async with Client(tmp_path / "policy.sock") as client:
                await answering(client)
                assert not (await client.call(contract.ATTACH, attach(KEY))).enforced, "pods never wait for a dry run"
            status, ready = await get(f"{base}/readyz")
            assert status == 503
            assert ready["missing"][0].startswith("in_sync: ")
            assert (await get(f"{base}/policy/explain?from=shop/front&to=shop/web-1&port=80/TCP"))[0] == 503
            world.blocked.clear()
            async with asyncio.timeout(20):
                while (await get(f"{base}/readyz"))[0] != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await check_state(base)
            await check_answers(base)
            assert [event["involvedObject"]["name"] for event in world.events()] == ["bad"]


async def check_state(base: str) -> None:
    _, state = await get(f"{base}/state")
    assert (state["network_policy"], state["in_sync"], state["missing"]) == ("observe", True, "")
    assert state["counts"]["endpoints"] == 4
    assert state["counts"]["hosts"] == 2
    assert state["counts"]["active_endpoints"] == 1
    assert state["invalid_objects"] == 1
    assert [(problem["name"], problem["field"]) for problem in state["invalid"]] == [("bad", "spec.selector")]
    assert {watch["resource"] for watch in state["watches"]} >= {"pods", "networkpolicies.networking.k8s.io"}
    _, metrics = await get(f"{base}/metrics")
    lines = metrics.splitlines()
    for line in (
        "terway_policy_in_sync 1.0",
        "terway_policy_invalid_objects 1.0",
        "felix_cluster_num_workload_endpoints 4.0",
        "felix_active_local_endpoints 1.0",
        "felix_active_local_policies 1.0",
    ):
        assert line in lines
    assert any(line.startswith("terway_policy_flush_seconds_count") for line in lines)


async def check_answers(base: str) -> None:
    _, dump = await get(f"{base}/policy/dump")
    assert list(dump["weps"]) == ["k8s/shop/web-1/eth0"]

    # Both ends may run elsewhere: this node answers for theirs.
    cells = {}
    for source in ("shop/front", "ops/probe", "10.0.1.3", "192.0.2.1"):
        for target in ("shop/web-1", "shop/web-2"):
            _, answer = await get(f"{base}/policy/explain?from={source}&to={target}&port=web/TCP")
            cells[source, target] = answer["allowed"]
    assert [cells[source, "shop/web-1"] for source in ("shop/front", "ops/probe", "10.0.1.3", "192.0.2.1")] == [
        True,
        True,
        True,
        False,
    ]
    assert all(cells[source, "shop/web-1"] == cells[source, "shop/web-2"] for source, _ in cells)
    for question in ("from=shop/no&to=shop/web-1&port=80/TCP", "from=shop/front&to=shop/web-1&port=80", "from=a"):
        status, refused = await get(f"{base}/policy/explain?{question}")
        assert status == 400
        assert refused["error"]

    _, matrix = await get(f"{base}/policy/compute?matrix=8080/TCP,9/UDP", method="POST")
    assert matrix["8080/TCP"]["shop/front"]["shop/web-2"] == "allow"
    assert matrix["9/UDP"]["shop/front"]["shop/web-2"] == "ingress"
    assert set(matrix["9/UDP"]) == {"shop/front", "shop/web-1", "shop/web-2", "ops/probe"}
    _, part = await get(f"{base}/policy/compute?matrix=8080/TCP&namespace=ops", method="POST")
    assert part == {"8080/TCP": {"ops/probe": {"ops/probe": "allow"}}}
    _, computed = await get(f"{base}/policy/compute?node=node2", method="POST")
    assert computed["messages"][-1] == {"InSync": {}}
    assert computed["invalid"][0]["name"] == "bad"
    assert sum("WorkloadEndpointUpdate" in message for message in computed["messages"]) == 3

    def terwayctl(*arguments: str) -> click.testing.Result:
        return click.testing.CliRunner().invoke(main, ["policy", *arguments, "--url", base])

    explained = await asyncio.to_thread(terwayctl, "explain", "shop/front", "shop/web-1:8080/TCP")
    assert explained.exit_code == 0, explained.output
    assert explained.output.startswith("shop/front -> shop/web-1:8080/TCP: allowed\n")
    denied = await asyncio.to_thread(terwayctl, "explain", "192.0.2.1", "shop/web-1:8080/TCP")
    assert denied.exit_code == 1
    unknown = await asyncio.to_thread(terwayctl, "explain", "shop/nobody", "shop/web-1:8080/TCP")
    assert "shop/nobody" in unknown.output
    dumped = await asyncio.to_thread(terwayctl, "dump")
    assert json.loads(dumped.output) == dump


async def test_observe_needs_an_api_server(tmp_path: Path) -> None:
    async with policy(write_config(tmp_path, "", network_policy="observe")) as process:
        _, stderr = await process.communicate()
    assert process.returncode != 0
    assert "set node.kube.server" in stderr.decode()
