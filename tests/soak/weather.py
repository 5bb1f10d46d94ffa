"""What goes wrong during a soak: calls, answers, metadata, devices, the API server, limits of the account."""

import asyncio
import random
from contextlib import suppress

from compose.lab import control
from compose.lab.control import Control, Json
from compose.lab.layout import Layout
from shared.errors import SuiteError
from tests.soak.tally import Tally

CHANGES = (
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "AssignIpv6Addresses",
    "UnassignIpv6Addresses",
)
LOOKS = ("DescribeNetworkInterfaces", "DescribeVSwitches", "DescribeInstanceTypes")

CALM: Json = {"account": None, "each_action": None, "actions": {}}
NARROW: Json = {"account": None, "each_action": {"per_minute": 60, "burst": 2}, "actions": {}}

THROTTLED = {"kind": "error", "code": "Throttling.User", "status": 400}
FAILED = {"kind": "error", "code": "InternalError", "status": 500}
BUSY = {"kind": "error", "code": "Operation.Conflict", "status": 409}
LOST = {"kind": "lost_answer"}
SLOW = {"kind": "delay", "delay_s": 2.0}
OLD = {"kind": "stale"}


class Weather:
    """Adds faults at random until it is stopped; `clear` ends all of them."""

    def __init__(self, layout: Layout, nodes: list[str], tally: Tally, chance: random.Random) -> None:
        self._layout, self._nodes, self._tally, self._chance = layout, nodes, tally, chance

    async def blow(self, stop: asyncio.Event) -> None:
        """A fault every second or so."""
        async with control.connect(self._layout.cloud_socket) as cloud, asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                tasks.create_task(self._one(cloud, stop), name="fault")
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._chance.uniform(0.3, 1.5)):
                        await stop.wait()

    async def clear(self) -> None:
        """Everything works again."""
        async with control.connect(self._layout.cloud_socket) as cloud:
            await cloud.send("DELETE", "/faults")
            await cloud.send("PUT", "/limits", CALM)

    async def _one(self, cloud: Control, stop: asyncio.Event) -> None:
        kind = self._chance.random()
        if kind < 0.5:
            await self._add(cloud, self._of_a_change())
        elif kind < 0.65:
            await self._add(cloud, self._of_a_look())
        elif kind < 0.8:
            await self._add(cloud, self._of_metadata())
        elif kind < 0.87:
            late = {"action": "device", "kind": "late", "delay_s": self._chance.choice((0.5, 3.0)), "times": 1}
            await self._add(cloud, late)
        elif kind < 0.95:
            await self._of_kubernetes(cloud, stop)
        else:
            await self._throttle(cloud, stop)

    def _of_a_change(self) -> Json:
        fault = self._chance.choice((THROTTLED, FAILED, BUSY, LOST, LOST, SLOW))
        return {"action": self._chance.choice(CHANGES), "times": self._chance.randint(1, 3), **fault}

    def _of_a_look(self) -> Json:
        fault = self._chance.choice((THROTTLED, FAILED, LOST, SLOW, OLD, OLD))
        return {"action": self._chance.choice(LOOKS), "times": self._chance.randint(1, 4), **fault}

    def _of_metadata(self) -> Json:
        fault: Json = {"kind": self._chance.choice(("error", "delay", "stale", "empty")), "delay_s": 1.0}
        return {"action": "metadata", "times": self._chance.randint(1, 8), **fault}

    async def _of_kubernetes(self, cloud: Control, stop: asyncio.Event) -> None:
        kind = self._chance.choice(("error", "cut_off", "slow", "compacted"))
        made = await self._add(cloud, {"action": "kubernetes", "kind": kind, "delay_s": 0.3, "times": 3})
        if kind in ("cut_off", "slow") and made:
            await _for(stop, self._chance.uniform(0.5, 4.0))
            await cloud.send("DELETE", f"/faults?id={made['id']}")

    async def _throttle(self, cloud: Control, stop: asyncio.Event) -> None:
        """The whole account has used up what it may call."""
        self._tally.faults["account throttled"] += 1
        await cloud.send("PUT", "/limits", NARROW)
        await _for(stop, self._chance.uniform(2.0, 10.0))
        await cloud.send("PUT", "/limits", CALM)

    async def _add(self, cloud: Control, fault: Json) -> Json:
        node = self._chance.choice(["", *self._nodes]) if fault["action"] != "kubernetes" else ""
        try:
            made: Json = await cloud.send("POST", "/faults", {**fault, "node": node})
        except SuiteError as error:  # what is to go wrong is not there
            self._tally.faults[f"impossible: {error.message[:60]}"] += 1
            return {}
        code = f" {fault['code']}" if "code" in fault else ""
        self._tally.faults[f"{fault['action']} {fault['kind']}{code}"] += 1
        return made


async def _for(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
