"""Pods without containers on Debian's ptp and host-local: real namespaces, links and pings."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.lab.runtime_cni.invoke import PluginFailed
from compose.lab.runtime_cni.pods import BarePods
from shared.errors import NotFound
from shared.model import PodKey

pytestmark = pytest.mark.system
POD = PodKey("default", "one")


def namespaces(prefix: str) -> list[str]:
    return [path.name for path in Path("/run/netns").glob(f"{prefix}-*")]


@pytest.fixture
def node() -> Iterator[str]:
    name = f"twr-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    for left in (*namespaces(name), name):
        subprocess.run(["ip", "netns", "del", left], check=True)


@pytest.fixture
def pods(node: str, tmp_path: Path) -> BarePods:
    return make(node, tmp_path)


def make(node: str, folder: Path) -> BarePods:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.254.0.0/24"}]], "dataDir": str(folder / "leases")}
    conf = {"cniVersion": "1.0.0", "name": "bare-test", "plugins": [{"type": "ptp", "ipam": ipam}]}
    (folder / "10.conflist").write_text(json.dumps(conf))
    return BarePods(
        conflist=folder / "10.conflist",
        bin_dir=Path("/usr/lib/cni"),
        folder=folder / "pods",
        node_netns=Path("/run/netns") / node,
        netns_prefix=node,
    )


async def test_a_pod_is_a_namespace_with_an_address(pods: BarePods, node: str, tmp_path: Path) -> None:
    sandbox = await pods.run(POD, uid="u", labels={}, annotations={})
    assert sandbox.addresses[0].startswith("10.254.0.") and len(namespaces(node)) == 1

    again = make(node, tmp_path)  # another command of the same lab
    assert await again.find(POD) == [sandbox.id] and await again.find(PodKey("default", "two")) == []
    assert await again.inspect(sandbox.id) == sandbox
    pinged = await again.exec(sandbox.id, ["ping", "-c1", "-W2", "10.254.0.1"])
    assert pinged.code == 0, pinged
    assert (await again.exec(sandbox.id, ["sh", "-c", "exit 3"])).code == 3

    await again.stop(sandbox.id)
    assert namespaces(node) == []
    assert not list((tmp_path / "leases/bare-test").glob("10.*"))
    assert not (await again.inspect(sandbox.id)).ready
    await again.stop(sandbox.id)
    await again.remove(sandbox.id)
    await again.remove(sandbox.id)
    with pytest.raises(NotFound):
        await again.inspect(sandbox.id)


async def test_what_a_failed_add_leaves_can_be_removed(pods: BarePods, node: str, tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("a file where host-local wants a folder")
    with pytest.raises(PluginFailed, match="ptp ADD"):
        await pods.run(POD, uid="u", labels={}, annotations={})
    (tmp_path / "leases").unlink()
    (left,) = await pods.find(POD)
    await pods.stop(left)
    await pods.remove(left)
    assert (namespaces(node), await pods.find()) == ([], [])
