"""The lab's cloud as a process: fabric, APIs inside the VPC, and Unix sockets for those outside."""

import asyncio
import contextlib
import os
import random
import secrets
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from aiohttp import web

from compose.lab import kubeconfig, kubeproxy
from compose.lab.cloud import metadata, openapi
from compose.lab.cloud.cloud import Cloud
from compose.lab.cloud.control import Control
from compose.lab.cloud.core.account import Account, Layout
from compose.lab.cloud.core.faults import Fault
from compose.lab.cloud.core.model import AccessKey, Delays
from compose.lab.cloud.faults import FaultDesk
from compose.lab.cloud.kubernetes import KubeServer
from compose.lab.fabric import names
from compose.lab.fabric.capture import Captures
from compose.lab.fabric.port import Subnet
from compose.lab.fabric.script import Plan
from compose.lab.fabric.vpc import VpcFabric, remove_leftovers
from compose.lab.kubeapi import KubeApi
from compose.lab.kubeapi.rbac import ServiceAccount
from shared import log as logs
from shared.lifecycle import InstanceLock
from shared.model import Cidr, Ip

log = logs.get(__name__)

METADATA = Ip("100.100.100.200")
OPENAPI = Ip("100.100.0.10")
KUBERNETES = Ip("100.100.0.20")
KUBERNETES_PORT = 6443
SERVICE_ACCOUNT = ServiceAccount("kube-system", "terway")
"""Whose token nodes' services show; deploy/kubernetes/rbac.yaml says what it may do."""

READY_FILE = "cloud.json"
LOCK_FILE = "cloud.lock"
KUBECONFIG_FILE = "kubeconfig"


class Options(msgspec.Struct, frozen=True):
    """What the command line says."""

    lab: str
    state_dir: Path
    delays: Delays
    layout: Layout = Layout()
    metadata_token_required: bool = False
    kubeconfig: Path | None = None
    """Of the API server that stands in for the lab's own."""
    faults: tuple[Fault, ...] = ()
    """In force from the start."""


class About(msgspec.Struct, frozen=True):
    """The ready file, `cloud.json`: it is there while the lab's cloud serves."""

    lab: str
    pid: int
    region: str
    vpc: str
    vpc_namespace: str
    outside_namespace: str
    outside_host: Ip
    outside_host6: Ip
    openapi: str
    metadata: str
    kubernetes: str
    control_socket: str
    kubernetes_socket: str
    access_key_id: str
    access_key_secret: str
    service_account_token: str
    """With which the services come to the lab's own API server; empty where another stands in."""
    role: str
    security_groups: list[str]
    vswitches: list[Subnet]


def plan(lab: str, layout: Layout) -> Plan:
    """The fabric of this account."""
    return Plan(
        lab=lab,
        vpc_cidr=Cidr(layout.vpc_cidr),
        subnets=tuple(Subnet(v.id, Cidr(v.cidr), v.gateway, Cidr(v.ipv6_cidr), v.gateway6) for v in layout.vswitches),
        services=(METADATA, OPENAPI, KUBERNETES),
    )


async def serve(options: Options, stop: asyncio.Event) -> None:
    """Run until `stop`; raises Refused when a cloud of this lab runs already."""
    names.check_lab(options.lab)
    folder = options.state_dir
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with InstanceLock(folder / LOCK_FILE):
        (folder / READY_FILE).unlink(missing_ok=True)
        try:
            async with _running(options) as about:
                _publish(folder / READY_FILE, about)
                log.info("ready", lab=options.lab, file=str(folder / READY_FILE))
                await stop.wait()
        finally:
            for name in (READY_FILE, "cloud.sock", "kube.sock", KUBECONFIG_FILE):
                (folder / name).unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _running(options: Options) -> AsyncIterator[About]:
    folder, layout = options.state_dir, options.layout
    key = AccessKey(f"LTAI{secrets.token_hex(8)}", secrets.token_hex(15))
    account = Account(layout, delays=options.delays, random=random.random)
    account.add_key(key)
    token = secrets.token_hex(32) if options.kubeconfig is None else ""
    async with contextlib.AsyncExitStack() as opened:
        fabric = await opened.enter_async_context(VpcFabric(plan(options.lab, layout)))
        captures = Captures(fabric, folder / "captures")
        opened.push_async_callback(captures.close)
        cloud = await opened.enter_async_context(Cloud(account, fabric))
        about = About(
            lab=options.lab,
            pid=os.getpid(),
            region=layout.region,
            vpc=layout.vpc,
            vpc_namespace=fabric.vpc,
            outside_namespace=fabric.outside,
            outside_host=fabric.plan.outside_host,
            outside_host6=fabric.plan.outside_host6,
            openapi=f"http://{OPENAPI}",
            metadata=f"http://{METADATA}",
            kubernetes=f"http://{KUBERNETES}:{KUBERNETES_PORT}",
            control_socket=str(folder / "cloud.sock"),
            kubernetes_socket=str(folder / "kube.sock"),
            access_key_id=key.id,
            access_key_secret=key.secret,
            service_account_token=token,
            role=layout.role,
            security_groups=[g.id for g in layout.security_groups],
            vswitches=list(fabric.plan.subnets),
        )
        api = _application(openapi.routes(cloud))
        who = metadata.by_source(cloud)
        described = _application(metadata.routes(cloud, who, token_required=options.metadata_token_required))
        kube = _kube_server(options, token, fabric) if options.kubeconfig is None else None
        faults = FaultDesk(cloud, kube)
        control = Control(cloud, fabric, captures, about, faults).application()
        await opened.enter_async_context(_site(api, await fabric.listen(OPENAPI, 80)))
        await opened.enter_async_context(_site(described, await fabric.listen(METADATA, 80)))
        if kube is not None:
            opened.push_async_callback(kube.stop)
            await kube.start()
        else:
            assert options.kubeconfig is not None
            kubernetes = [await fabric.listen(KUBERNETES, KUBERNETES_PORT), _unix(folder / "kube.sock")]
            await opened.enter_async_context(kubeproxy.serving(kubernetes, kubeproxy.read(options.kubeconfig)))
        await opened.enter_async_context(_site(control, _unix(folder / "cloud.sock")))
        for fault in options.faults:
            await faults.add(fault)
        yield about


def _kube_server(options: Options, token: str, fabric: VpcFabric) -> KubeServer:
    """The lab's own: in the VPC, behind a Unix socket, and for kubectl by a loopback port of the machine, which it
    keeps from start to start unless somebody has taken it meanwhile; the kubeconfig says which."""
    folder, port = options.state_dir, 0

    async def listen() -> list[socket.socket]:
        nonlocal port
        try:
            on_machine = socket.create_server(("127.0.0.1", port))
        except OSError:
            on_machine = socket.create_server(("127.0.0.1", 0))
        port = on_machine.getsockname()[1]
        kubeconfig.write(folder / KUBECONFIG_FILE, lab=options.lab, server=f"http://127.0.0.1:{port}")
        return [await fabric.listen(KUBERNETES, KUBERNETES_PORT), _unix(folder / "kube.sock"), on_machine]

    return KubeServer(KubeApi(tokens={token: SERVICE_ACCOUNT}), listen)


def _application(routes: list[web.RouteDef]) -> web.Application:
    app = web.Application()
    app.add_routes(routes)
    return app


@contextlib.asynccontextmanager
async def _site(app: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()


def _unix(path: Path) -> socket.socket:
    """The lock says that nobody else serves here, so what lies there is a dead process's."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(256)
    listener.setblocking(False)
    return listener


def _publish(path: Path, about: About) -> None:
    """All or nothing, and for root's eyes: it holds a key."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(about)))
    fresh.rename(path)


def clean_up(lab: str, state_dir: Path) -> list[str]:
    """Remove what a killed cloud left; returns the namespaces. Raises Refused while one runs."""
    names.check_lab(lab)
    if state_dir.is_dir():
        with InstanceLock(state_dir / LOCK_FILE):
            for name in (READY_FILE, "cloud.sock", "kube.sock", KUBECONFIG_FILE):
                (state_dir / name).unlink(missing_ok=True)
            return remove_leftovers(lab)
    return remove_leftovers(lab)
