"""Builds policy's adapters, wires the flow, starts the tasks."""

import asyncio
from contextlib import AsyncExitStack

from services.policy.config import PolicyConfig
from services.policy.handlers import NothingEnforced
from shared import metrics
from shared.config import NodeConfig
from shared.contracts import policy as contract
from shared.health import Health
from shared.http import HttpFace
from shared.lifecycle import InstanceLock
from shared.rpc.server import Server


async def serve(node: NodeConfig, config: PolicyConfig, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises Refused when another instance runs or the port is taken."""
    registry = metrics.registry("policy")
    handlers = NothingEnforced()
    rpc = Server(node.socket("policy"), name="policy", observe=metrics.rpc_observer(registry))
    rpc.register(contract.ATTACH, handlers.attach)
    rpc.register(contract.DETACH, handlers.detach)
    rpc.register(contract.CHECK, handlers.check)
    face = HttpFace(
        name="policy",
        host=config.http_host,
        port=config.http_port,
        health=Health(),  # no loop and no condition: with NetworkPolicy off there is nothing to be late or out of sync
        state=lambda: {"network_policy": config.network_policy, "watches": []},
        registry=registry,
    )
    async with AsyncExitStack() as opened:
        opened.enter_context(InstanceLock(node.lock("policy")))
        await opened.enter_async_context(face)
        await opened.enter_async_context(rpc)
        await stop.wait()
