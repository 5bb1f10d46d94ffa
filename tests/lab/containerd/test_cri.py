"""A private containerd in a namespace of its own, with Debian's plugins: what the lab relies on."""

import asyncio
import json
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from compose.lab import process
from compose.lab.containerd import client, image, remains
from compose.lab.containerd.daemon import Daemon
from compose.lab.mounts import mounted_below
from compose.lab.sandbox import Sandbox
from compose.lab.waiting import until
from shared.errors import NotFound, Unavailable
from shared.model import PodKey

pytestmark = pytest.mark.system

_CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "lab-test",
    "plugins": [
        {
            "type": "ptp",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.253.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
    ],
}


def ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True)


def inode(path: str) -> int:
    return Path(path).stat().st_ino


@dataclass
class Node:
    """One containerd and the namespace it runs in."""

    name: str
    daemon: Daemon
    records: Path

    async def start(self) -> None:
        process.spawn(
            "containerd",
            self.daemon.argv,
            log=self.daemon.folder / "containerd.log",
            records=self.records,
            netns=Path("/run/netns") / self.name,
            private_mounts=self.daemon.netns_in_state_dir,
        )

        async with client.Cri(self.daemon.socket, cgroup=self.daemon.cgroup) as cri:
            await until(cri.missing, what="containerd", within_s=30)

    async def stop(self) -> None:
        running = process.find(self.records, "containerd")
        assert running is not None
        await process.stop(running)


def shim_sockets(node: Node) -> list[Path]:
    """Where the shims of running containers listen, outside of anything that this containerd was told to use."""
    return [
        Path(address.read_text().removeprefix("unix://"))
        for address in (node.daemon.folder / "state/io.containerd.runtime.v2.task/k8s.io").glob("*/address")
    ]


def left(node: Node, container: process.Process, sandbox: Sandbox, sockets: list[Path]) -> list[object]:
    """What there still is of a sandbox and of the containerd that ran it."""
    return [
        *([container] if container.alive else []),
        *mounted_below(node.daemon.folder),
        *(path for path in (node.daemon.folder, Path(sandbox.netns), *sockets) if path.exists()),
        *Path("/sys/fs/cgroup").glob(f"*/{node.name}"),
        *Path("/var/lib/cni/results").glob(f"*{sandbox.id}*"),
    ]


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path("/run") / f"twr-{uuid.uuid4().hex[:6]}"  # pytest's own folders make socket paths too long
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=[False, True], ids=["run-netns", "state-dir"])
async def node(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    name = folder.name
    cni_bin, cni_conf = folder / "bin", folder / "conf"
    cni_bin.mkdir()
    cni_conf.mkdir()
    for plugin in ("ptp", "host-local", "loopback"):
        (cni_bin / plugin).symlink_to(f"/usr/lib/cni/{plugin}")
    conf = json.loads(json.dumps(_CONFLIST))
    conf["plugins"][0]["ipam"]["dataDir"] = str(folder / "leases")
    (cni_conf / "10-test.conflist").write_text(json.dumps(conf))
    daemon = Daemon(
        folder=folder / "c", cni_bin=cni_bin, cni_conf=cni_conf, cgroup=f"/{name}", netns_in_state_dir=request.param
    )
    daemon.write_config()
    ip("netns", "add", name)
    running = Node(name, daemon, folder / "processes")
    try:
        await running.start()
        archive = folder / "image.tar"
        image.build(archive)
        await client.import_archive(daemon.socket, archive)
        yield running
    finally:
        await running.stop()
        await remains.clear(daemon)
        ip("netns", "del", name)


async def test_a_pod_runs_talks_and_goes(node: Node) -> None:
    pod = PodKey("default", "one")
    async with client.Cri(node.daemon.socket, cgroup=node.daemon.cgroup) as cri:
        assert {f"{image.PAUSE}", f"{image.TOOLS}"} <= await cri.images()
        sandbox = await cri.run(pod, uid="u-1", labels={}, annotations={"a": "b"})
        assert sandbox.ready and sandbox.addresses[0].startswith("10.253.0.")
        # The path leads to the namespace from here only by the default placement; its process leads there always.
        same = inode(sandbox.netns) == inode(str(sandbox.entry))
        assert same is not node.daemon.netns_in_state_dir

        pinged = await cri.exec(sandbox.id, ["ping", "-c1", "-w2", "10.253.0.1"])
        assert pinged.code == 0, pinged
        failed = await cri.exec(sandbox.id, ["sh", "-c", "echo out; echo err >&2; exit 7"])
        assert (failed.code, failed.stdout, failed.stderr) == (7, b"out\n", b"err\n")

        assert await cri.find(pod) == [sandbox.id]
        await cri.stop(sandbox.id)
        await cri.remove(sandbox.id)
        await cri.remove(sandbox.id)
        assert await cri.find() == []
        with pytest.raises(NotFound):
            await cri.exec(sandbox.id, ["true"])


async def test_remains_of_a_killed_containerd_are_cleared(node: Node) -> None:
    async with client.Cri(node.daemon.socket, cgroup=node.daemon.cgroup) as cri:
        sandbox = await cri.run(PodKey("default", "left"), uid="u-2", labels={}, annotations={})
    running = process.find(node.records, "containerd")
    assert running is not None
    await process.stop(running, grace_s=0)
    container, sockets = process.observe(sandbox.pid), shim_sockets(node)
    assert sockets
    assert left(node, container, sandbox, sockets) != [], "containers outlive containerd"

    await remains.clear(node.daemon)

    assert left(node, container, sandbox, sockets) == []


async def test_nobody_listening_is_unavailable(tmp_path: Path) -> None:
    async with client.Cri(tmp_path / "none.sock", cgroup="/x") as cri:
        assert "containerd Status" in await asyncio.wait_for(cri.missing(), 10)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(cri.find(), 10)
