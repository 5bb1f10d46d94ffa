"""`terwayctl lab fault` and `terwayctl lab capture` against a cloud that runs."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from compose.lab import control
from compose.lab.fabric import kernel, names
from compose.lab.layout import Layout
from compose.lab.waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]


class Lab:
    """A cloud process in the folder of its name, with one node."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    async def terwayctl(self, *argv: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.ctl", "lab", *argv, "--name", self.layout.lab),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        said, complained = await process.communicate()
        return process.returncode or 0, said.decode(), complained.decode()

    async def json(self, *argv: str) -> Any:
        code, said, complained = await self.terwayctl(*argv, "--json")
        assert code == 0, complained
        return json.loads(said)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    layout = Layout.of(f"c{secrets.token_hex(4)}")
    faults = tmp_path / "faults.json"
    faults.write_text('[{"action": "DescribeVSwitches", "code": "FromTheStart"}]')
    command = [sys.executable, "-m", "compose.lab.cloud", "--name", layout.lab, "--faults", str(faults)]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)

    async def missing() -> str:
        return "" if (layout.folder / "cloud.json").exists() else "no ready file"

    try:
        await until(missing, what="the lab's cloud", within_s=20)
        async with control.connect(layout.cloud_socket) as cloud:
            await cloud.add_node("node1", instance_type="ecs.g6.2xlarge", vswitch="vsw-lab-a")
        yield Lab(layout)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        shutil.rmtree(layout.folder, ignore_errors=True)
    assert names.existing(layout.lab) == []


async def test_faults_by_hand_and_by_file(lab: Lab, tmp_path: Path) -> None:
    (first,) = await lab.json("fault", "list")
    assert first["code"] == "FromTheStart"
    (added,) = await lab.json("fault", "add", "Assign*", "lost_answer", "--times", "2", "--node", "node1")
    assert (added["kind"], added["times"], added["node"]) == ("lost_answer", 2, "node1")
    file = tmp_path / "more.json"
    file.write_text('[{"action": "device", "kind": "late", "delay_s": 3}, {"action": "kubernetes", "kind": "slow"}]')
    assert len(await lab.json("fault", "add", "--file", str(file))) == 2
    code, said, _ = await lab.terwayctl("fault", "list")
    assert code == 0
    assert said.splitlines()[1:] == [
        f"{added['id']:6} Assign* lost_answer times=2 node=node1",
        "f3     device late delay_s=3.0",
        "k1     kubernetes slow",
    ]
    assert [f["id"] for f in await lab.json("fault", "clear", added["id"], "k1")] == [added["id"], "k1"]
    assert [f["id"] for f in await lab.json("fault", "list")] == [first["id"], "f3"]
    assert len(await lab.json("fault", "clear")) == 2 and await lab.json("fault", "list") == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["fault", "add"], "name an ACTION"),
        (["fault", "add", "device", "lost_answer"], "device knows late, never"),
        (["fault", "add", "Describe*", "--probability", "2"], "probability"),
        (["fault", "add", "outside", "detach"], "target"),
        (["fault", "add", "outside", "detach", "--target", "eni-none"], "eni-none"),
        (["capture", "nothing"], "nothing is no interface"),
    ],
)
async def test_what_is_refused(lab: Lab, argv: list[str], said: str) -> None:
    code, _, complained = await lab.terwayctl(*argv)
    assert code == 1 and said in complained
    assert len(await lab.json("fault", "list")) == 1


async def test_a_capture_of_a_node(lab: Lab) -> None:
    async with control.connect(lab.layout.cloud_socket) as cloud:
        (node,) = (await cloud.state())["nodes"]
    running = asyncio.create_task(lab.json("capture", "node1", "icmp", "--for", "3"))

    async def missing() -> str:
        async with control.connect(lab.layout.cloud_socket) as cloud:
            return "" if await cloud.send("GET", "/captures") else "no capture"

    await until(missing, what="the capture", within_s=10, every_s=0.02)
    ping = ["ping", "-c1", "-W1", node["gateway"]]
    netns = names.namespace(lab.layout.lab, "node1")
    await asyncio.to_thread(kernel.inside, netns, lambda: subprocess.run(ping, capture_output=True, check=True))
    done = await running
    assert done["eni"] == node["primary_eni"] and len(done["packets"]) == 2
    assert "ICMP echo request" in done["packets"][0] and Path(done["file"]).exists()
