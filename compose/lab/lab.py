"""A lab comes up and goes down.

`up` makes the cloud, then all nodes at once; when anything fails, it takes everything back. `down` works from names,
records and the kernel, not from what some process remembers, so it removes a killed lab as well as a running one.
"""

import asyncio
import fcntl
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from compose.lab import control, manifests, node, process, record, serve, services
from compose.lab.containerd import image, remains
from compose.lab.control import NodeFacts
from compose.lab.fabric import names
from compose.lab.fabric.vpc import remove_leftovers
from compose.lab.layout import CGROUP, NETNS, ROOT, Layout
from compose.lab.mounts import unmount_below
from compose.lab.record import Options, Record
from compose.lab.serve import Port
from compose.lab.waiting import until
from services.eni_manager.adapters import kernel
from services.eni_manager.core import preflight
from shared.errors import Conflict, NotFound, Refused, SuiteError
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.model import Mode

Say = Callable[[str], None]
HELLO = [Port(80, "tcp"), Port(80, "udp")]
"""What every node and the host outside serve, so that there is something to reach."""
_RBAC = Path(__file__).parents[2] / "deploy" / "kubernetes" / "rbac.yaml"


async def up(layout: Layout, options: Options, *, say: Say, keep: bool = False) -> Record:
    """Bring a lab up, or return the record of the same lab that is up already.

    Conflict: it is up with other options. `keep`: leave what there is after a failure, for a look at its logs.
    """
    await _require_kernel(options)
    with _locked(layout):
        with suppress(NotFound, Conflict):
            there = record.read(layout)
            if await _cloud_lives(layout):
                if there.options != options:
                    raise Refused(f"lab {layout.lab} is up with other options: `lab down` first, or give another name")
                say(f"lab {layout.lab} is up already")
                return there
        if layout.folder.exists() or names.existing(layout.lab):
            say(f"removing what an earlier lab {layout.lab} left")
            await _clear(layout)
        try:
            return await _make(layout, options, say)
        except BaseException:
            if not keep:
                say("failed; taking everything back")
                await _clear(layout)
            raise


async def _require_kernel(options: Options) -> None:
    """Refused: this machine's kernel, which is that of all nodes, cannot carry the mode, and no other may stand in."""
    mode = options.mode
    if mode is Mode.SHARED_IPVLAN and options.ipvlan_fallback:
        return  # each node finds out, and says so
    needs = preflight.NEEDS[mode]
    if lacking := preflight.kernel_lacks(mode, await asyncio.to_thread(kernel.known, needs)):
        raise Refused(
            f"mode {mode} cannot run on this machine: its kernel has no {', no '.join(lacking)} "
            f"(`make demo MODE={mode}` runs it in a guest that has them)"
        )


async def down(layout: Layout, *, say: Say) -> bool:
    """Remove a lab, whatever state it is in. False when there was nothing of it."""
    with _locked(layout):
        if not layout.folder.exists() and not names.existing(layout.lab):
            return False
        say(f"taking lab {layout.lab} down")
        await _clear(layout)
        return True


# ---- up


async def _make(layout: Layout, options: Options, say: Say) -> Record:
    layout.folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "compose.lab.cloud", "--name", layout.lab, "--delays", options.delays]
    process.spawn(
        "cloud",
        [*argv, "--kubeconfig", options.kubeconfig] if options.kubeconfig else argv,
        log=layout.log("cloud"),
        records=layout.processes,
    )
    about = await _cloud(layout)
    say(f"cloud: {about['openapi']}, metadata {about['metadata']}, Kubernetes API {about['kubernetes']}")
    archive = layout.folder / "image.tar"
    if options.runtime == "containerd":
        image.build(archive)
    address = KubeAddress(f"unix://{layout.kube_socket}")
    if about["service_account_token"]:
        await _grant(layout)
    async with control.connect(layout.cloud_socket) as cloud, KubeClient(address) as api:
        vswitches = [subnet["name"] for subnet in about["vswitches"]]
        facts = [
            await cloud.add_node(
                f"node{number + 1}",
                instance_type=options.instance_type,
                vswitch=vswitches[number % len(vswitches)],
                ipv6=options.stack == "dual",
            )
            for number in range(options.nodes)
        ]
        for fact in facts:
            layout.node(fact.name).folder.mkdir()
        await _together(
            node.start(layout.node(fact.name), fact, options, about=about, image=archive, kube=api, say=say)
            for fact in facts
        )
        _greet(layout, facts)
    made = Record(name=layout.lab, options=options, nodes=facts, about=about, created_at=time.time())
    record.write(layout, made)
    return made


async def _grant(layout: Layout) -> None:
    """The services get the rights that a cluster gives them, and no more."""
    async with manifests.connect(layout.kube_socket) as cluster:
        for obj in manifests.read(_RBAC.read_text(), source=str(_RBAC)):
            await cluster.apply(obj, namespace="kube-system")


async def _together(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; the first failure ends the others and is raised as it is, not in a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for coroutine in coroutines:
                tasks.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _cloud(layout: Layout) -> dict[str, Any]:
    """Wait until the cloud serves; what its ready file says."""
    ready = layout.folder / "cloud.json"

    async def missing() -> str:
        running = process.find(layout.processes, "cloud")
        if running is None or not running.alive:
            raise SuiteError(f"the lab's cloud has ended: {services.tail(layout.log('cloud'))}")
        return "" if ready.exists() else "no ready file"

    await until(missing, what="the lab's cloud", within_s=30)
    about: dict[str, Any] = msgspec.json.decode(ready.read_bytes())
    return about


async def _cloud_lives(layout: Layout) -> bool:
    running = process.find(layout.processes, "cloud")
    return running is not None and running.alive


def _greet(layout: Layout, nodes: list[NodeFacts]) -> None:
    """Servers on the nodes and outside."""
    for fact in nodes:
        corner = layout.node(fact.name)
        serve.start(
            "serve",
            HELLO,
            greeting=fact.name,
            netns=corner.netns,
            records=corner.processes,
            log=corner.log("serve"),
        )
    serve.start(
        "serve-outside",
        HELLO,
        greeting="outside",
        netns=layout.outside_netns,
        records=layout.processes,
        log=layout.log("serve"),
    )


# ---- down


async def _clear(layout: Layout) -> None:
    """Processes first, then what they held, names last: a repeat after a failure finds what is left by them."""
    await _unregister(layout)
    corners = [layout.node(path.name) for path in sorted(layout.folder.glob("node*")) if path.is_dir()]
    running = [entry for corner in corners for entry in process.recorded(corner.processes)]
    # Services say goodbye to their databases; containerd and servers have nothing to lose.
    await _together(
        process.stop(entry, grace_s=0.0 if entry.name.startswith(("containerd", "serve")) else 5.0) for entry in running
    )
    for corner in corners:
        await remains.clear(node.daemon_of(corner))
    await _end_inhabitants(layout)
    for entry in process.recorded(layout.processes):
        await process.stop(entry, grace_s=10.0 if entry.name == "cloud" else 0.0)
    for unrecorded in process.marked(layout.folder):  # `up` was killed just after it had started them
        await process.stop(unrecorded, grace_s=0)
    remove_leftovers(layout.lab)
    unmount_below(layout.folder)
    shutil.rmtree(layout.folder, ignore_errors=True)
    if layout.folder.exists():
        raise SuiteError(f"{layout.folder} cannot be removed entirely")
    remains.remove_cgroups(layout.cgroup)
    remains.remove_empty_cgroup(CGROUP)


async def _unregister(layout: Layout) -> None:
    """Tell another cluster's API server that its nodes go. The lab's own goes with the lab."""
    with suppress(SuiteError):
        if record.read(layout).options.kubeconfig:
            async with KubeClient(KubeAddress(f"unix://{layout.kube_socket}"), timeout_s=5) as api:
                await node.unregister(api, layout.lab)


async def _end_inhabitants(layout: Layout) -> None:
    """End every process that lives in one of the lab's namespaces: what a killed supervisor or command left."""
    inodes = {path.stat().st_ino for path in NETNS.glob(f"{layout.netns_prefix}*")}
    for victim in list(_living_in(inodes)):
        await process.stop(victim, grace_s=0)


def _living_in(inodes: set[int]) -> Iterator[process.Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # ended meanwhile, or a kernel thread
                if (entry / "ns/net").stat().st_ino in inodes:
                    yield process.observe(int(entry.name))


# ---- both


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """One `up` or `down` of a lab at a time. The file goes with the lab."""
    ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file between our two calls: then this lock excludes nobody.
            if not layout.lock.exists() or os.fstat(handle).st_ino != layout.lock.stat().st_ino:
                raise BlockingIOError
        except BlockingIOError as error:
            raise Refused(f"another command brings lab {layout.lab} up or down right now") from error
        try:
            yield
        finally:
            if not layout.folder.exists():
                layout.lock.unlink()
    finally:
        os.close(handle)


@asynccontextmanager
async def temporary(layout: Layout, options: Options, *, say: Say) -> AsyncIterator[Record]:
    """A lab for as long as the context lasts; for tests and the demo."""
    made = await up(layout, options, say=say)
    try:
        yield made
    finally:
        await down(layout, say=say)
