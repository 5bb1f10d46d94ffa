"""A node's machine as a container: it has the cloud make the machine, then holds its network namespace.

    cloud container ── makes ──> namespace tw-<lab>-<node>
                                      ▲ this process enters it, and with it everything that joins this container:
                                      │ eni_manager, ipam, policy, gateway (`network_mode: service:node`)

So the services need no privilege to get there. What runs in this container by `docker compose exec` is the node's
kubelet and runtime: pods, which end with the machine. It starts no service and waits for none.

A cloud that was restarted is another cloud, and its node another machine: one with an empty disk.
"""

import asyncio
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import click
import msgspec

from compose.lab import control, node, process, record, services
from compose.lab.control import NodeFacts
from compose.lab.fabric import kernel
from compose.lab.fabric.netns import enter
from compose.lab.layout import NETNS, Layout
from compose.lab.pods import Pods, parse_pod
from compose.lab.record import Options, Record
from compose.lab.waiting import until
from shared import log as logs
from shared.errors import NotFound, SuiteError
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient

log = logs.get(__name__)


@click.command()
@click.option("--lab", default="lab", show_default=True)
@click.option("--node", "name", default="node1", show_default=True)
@click.option("--owner", type=int, default=0, show_default=True, help="User id of the node's services.")
@click.option("--cooldown", "cooldown_s", type=float, default=30.0, show_default=True, help="Of released addresses.")
@click.option("--pool-sync", "pool_sync_s", type=float, default=120.0, show_default=True, help="Between comparisons.")
def main(lab: str, name: str, owner: int, cooldown_s: float, pool_sync_s: float) -> None:
    """Make a lab's node and be it until SIGTERM."""
    logs.configure(service="machine", level="info")
    layout = Layout.of(lab)
    options = Options(nodes=1, runtime="cni", processes=True, cooldown_s=cooldown_s, pool_sync_s=pool_sync_s)
    try:
        facts = asyncio.run(_boot(layout, name, options, owner))
    except SuiteError as error:
        sys.exit(f"machine: {error.message}")
    enter(layout.node(name).netns)
    log.info("up", node=name, instance=facts.instance_id, address=facts.primary_ip)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    signal.sigwait((signal.SIGTERM, signal.SIGINT))
    asyncio.run(_shut_down(layout, name))


# ---- on


async def _boot(layout: Layout, name: str, options: Options, owner: int) -> NodeFacts:
    """Everything that `lab up` does for a node but its services. Returns what the cloud says of the machine."""
    about = await _cloud(layout)
    async with (
        control.connect(layout.cloud_socket) as cloud,
        KubeClient(KubeAddress(f"unix://{layout.kube_socket}")) as api,
    ):
        facts = await cloud.add_node(
            name, instance_type=options.instance_type, vswitch=str(about["vswitches"][0]["name"])
        )
        await node.register(api, facts, layout.lab)
    corner = layout.node(name)
    if not _same_cloud(layout, about):
        shutil.rmtree(corner.folder, ignore_errors=True)
    corner.folder.mkdir(exist_ok=True)
    services.write_config(corner, node.config_of(corner, facts, options, about))
    for folder in (corner.run, corner.state):
        folder.mkdir(mode=0o700, exist_ok=True)
    node.install_cni(corner)
    # Root installs the shim and runs it; the services are who reads and writes there, and need no privilege for it.
    for folder in (corner.run, corner.state, corner.state / "spool"):
        os.chown(folder, owner, owner)
    record.write(layout, Record(name=layout.lab, options=options, nodes=[facts], about=about, created_at=time.time()))
    return facts


async def _cloud(layout: Layout) -> dict[str, Any]:
    """What the cloud says of itself, as soon as it serves."""
    ready = layout.folder / "cloud.json"

    async def missing() -> str:
        return "" if ready.exists() and layout.cloud_socket.exists() else f"{ready} is not there"

    await until(missing, what="the lab's cloud", within_s=60)
    about: dict[str, Any] = msgspec.json.decode(ready.read_bytes())
    return about


def _same_cloud(layout: Layout, about: dict[str, Any]) -> bool:
    """Whether this disk was made under this cloud. Each has a key of its own; instances are numbered alike in all."""
    with suppress(SuiteError, msgspec.MsgspecError):
        return bool(record.read(layout).about["access_key_id"] == about["access_key_id"])
    return False


# ---- off


async def _shut_down(layout: Layout, name: str) -> None:
    """End the node's pods: by DEL, whose notes wait in the spool when the gateway has stopped; else by force."""
    corner = layout.node(name)
    with suppress(SuiteError):
        await _delete_pods(layout, name)
    for running in process.recorded(corner.processes):
        await process.stop(running, grace_s=0)
    for left in NETNS.glob(f"{corner.netns_name}-*"):
        kernel.delete(left.name)
    log.info("off", node=name)


async def _delete_pods(layout: Layout, name: str) -> None:
    if not layout.kube_socket.exists():
        raise NotFound("the lab's cloud has gone, and its Kubernetes API with it")
    async with asyncio.timeout(5), Pods(layout, {name: "cni"}) as pods:
        mine = [parse_pod(info.pod) for info in await pods.list() if info.node == name]
        for pod in mine:
            await pods.delete(pod)


if __name__ == "__main__":
    main()
