"""The lab's own interface to its cloud, on a Unix socket: what no customer of a cloud can do or see.

GET    /state                  everything: account, endpoints, faults
GET    /audit                  account against kernel; `problems` is empty when they agree
GET    /nodes                  every node
POST   /nodes                  {name, instance_type, zone | vswitch}  a machine with its primary ENI
DELETE /nodes/NAME             it goes, with its namespace
GET    /enis/ID/counters       packets that it sent, received, and was refused, by address
GET    /captures               what runs
POST   /captures               {eni, filter}  a packet capture on an ENI
DELETE /captures/ID            stop it; its packets as lines of text
GET | POST | DELETE /faults    list; add one (or happen at once); clear all, or each ?id=
GET | PUT  /limits             how many calls the account may make, and other limits from now on
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from compose.lab.cloud.audit import audit
from compose.lab.cloud.cloud import Cloud
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.errors import CloudError
from compose.lab.cloud.core.faults import Fault
from compose.lab.cloud.core.model import Instance
from compose.lab.cloud.core.throttle import Limits
from compose.lab.cloud.faults import FaultDesk
from compose.lab.fabric.capture import Captures
from compose.lab.fabric.names import check_node, namespace
from compose.lab.fabric.vpc import VpcFabric
from shared.errors import Invalid, NotFound, SuiteError

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class NewNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine to make; without `vswitch`, the first one of `zone`; without both, the first one."""

    name: str
    instance_type: str = "ecs.g6.2xlarge"
    zone: str | None = None
    vswitch: str | None = None
    ipv6: bool = False
    """Its primary network interface has an IPv6 address."""


class Node(msgspec.Struct, frozen=True):
    """A machine that is there."""

    name: str
    instance_id: str
    instance_type: str
    netns: str
    """Name of its network namespace."""
    zone: str
    vswitch: str
    vswitch_cidr: str
    gateway: str
    primary_eni: str
    mac: str
    primary_ip: str
    primary_ipv6: str = ""


class NewCapture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`filter` is a tcpdump expression."""

    eni: str
    filter: str = ""


def node(account: Account, lab: str, instance: Instance) -> Node:
    """What others need to know of a machine."""
    primary, vswitch = account.eni(instance.primary_eni), account.vswitch(instance.vswitch)
    return Node(
        name=instance.name,
        instance_id=instance.id,
        instance_type=instance.type,
        netns=namespace(lab, instance.name),
        zone=instance.zone,
        vswitch=vswitch.id,
        vswitch_cidr=vswitch.cidr,
        gateway=vswitch.gateway,
        primary_eni=primary.id,
        mac=primary.mac,
        primary_ip=primary.primary_ip,
        primary_ipv6=next(iter(primary.ipv6), ""),
    )


class Control:
    """The handlers. `about` is what the ready file says."""

    def __init__(self, cloud: Cloud, fabric: VpcFabric, captures: Captures, about: object, faults: FaultDesk) -> None:
        self._cloud = cloud
        self._faults = faults
        self._account = cloud.account
        self._fabric = fabric
        self._captures = captures
        self._about = about

    def application(self) -> web.Application:
        """All routes; errors of both trees become JSON."""
        app = web.Application(middlewares=[_errors_as_json])
        app.add_routes(
            [
                web.get("/state", self._state),
                web.get("/audit", self._audit),
                web.get("/nodes", self._list_nodes),
                web.post("/nodes", self._add_node),
                web.delete("/nodes/{name}", self._remove_node),
                web.get("/enis/{id}/counters", self._counters),
                web.get("/captures", self._list_captures),
                web.post("/captures", self._start_capture),
                web.delete("/captures/{id}", self._stop_capture),
                web.get("/faults", self._list_faults),
                web.post("/faults", self._add_fault),
                web.delete("/faults", self._clear_faults),
                web.get("/limits", self._get_limits),
                web.put("/limits", self._put_limits),
            ]
        )
        return app

    def _nodes(self) -> list[Node]:
        return [node(self._account, self._fabric.lab, i) for i in self._account.instances.values()]

    async def _state(self, request: web.Request) -> web.Response:
        account = self._account
        free = {v: account.free_addresses(v) for v in account.vswitches}
        return _json(
            {
                "about": self._about,
                "layout": account.layout,
                "nodes": self._nodes(),
                "enis": list(account.enis.values()),
                "security_groups": list(account.security_groups.values()),
                "routes": list(account.routes.values()),
                "free_addresses": free,
                "faults": self._faults.in_force(),
                "calls": self._cloud.calls,
                "fabric_failures": self._cloud.world.failures,
            }
        )

    async def _audit(self, request: web.Request) -> web.Response:
        return _json(await audit(self._cloud, self._fabric))

    async def _list_nodes(self, request: web.Request) -> web.Response:
        return _json(self._nodes())

    async def _add_node(self, request: web.Request) -> web.Response:
        wanted = await _body(request, NewNode)
        vswitch = wanted.vswitch or next(
            (v.id for v in self._account.vswitches.values() if wanted.zone in (None, v.zone)), None
        )
        if vswitch is None:
            raise NotFound(f"no vSwitch in zone {wanted.zone}")
        instance = self._account.run_instance(
            check_node(wanted.name),
            vswitch=vswitch,
            instance_type=wanted.instance_type,
            now=self._cloud.clock(),
            ipv6_count=int(wanted.ipv6),
        )
        await self._cloud.world.settle()
        return _json(node(self._account, self._fabric.lab, instance))

    async def _remove_node(self, request: web.Request) -> web.Response:
        if (instance := self._account.instance_named(request.match_info["name"])) is not None:
            self._account.release_instance(instance.id)
            await self._cloud.world.settle()
        return _json({})

    async def _counters(self, request: web.Request) -> web.Response:
        return _json(await self._fabric.counters(request.match_info["id"]))

    async def _list_captures(self, request: web.Request) -> web.Response:
        return _json(self._captures.running())

    async def _start_capture(self, request: web.Request) -> web.Response:
        wanted = await _body(request, NewCapture)
        return _json(await self._captures.start(wanted.eni, wanted.filter))

    async def _stop_capture(self, request: web.Request) -> web.Response:
        return _json({"packets": await self._captures.stop(request.match_info["id"])})

    async def _list_faults(self, request: web.Request) -> web.Response:
        return _json(self._faults.in_force())

    async def _add_fault(self, request: web.Request) -> web.Response:
        return _json(await self._faults.add(await _body(request, Fault)))

    async def _clear_faults(self, request: web.Request) -> web.Response:
        return _json(await self._faults.clear(request.query.getall("id", [])))

    async def _get_limits(self, request: web.Request) -> web.Response:
        return _json(self._cloud.api.throttle.limits)

    async def _put_limits(self, request: web.Request) -> web.Response:
        self._cloud.api.throttle.limits = await _body(request, Limits)
        return _json(self._cloud.api.throttle.limits)


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=kind)
    except msgspec.MsgspecError as e:
        raise Invalid(str(e)) from e


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except CloudError as e:
        return _json({"code": e.code, "message": e.message}, e.status)
    except NotFound as e:
        return _json({"code": e.code, "message": e.message}, 404)
    except SuiteError as e:
        return _json({"code": e.code, "message": e.message}, 400)
