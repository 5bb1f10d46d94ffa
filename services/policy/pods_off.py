"""Switching NetworkPolicy off takes away the tables in pods' own namespaces, too."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

from services.policy.adapters.kernel import take_away_inside
from services.policy.adapters.sandboxes import Sought
from services.policy.core.nft.model import TABLE
from services.policy.pods import IN_THE_POD
from shared.config import NodeConfig
from shared.contracts import ipam
from shared.errors import SuiteError
from shared.log import get
from shared.rpc.client import Client

log = get("policy.off")

RETRY_S = 1.0


@asynccontextmanager
async def nothing_inside(node: NodeConfig) -> AsyncIterator[None]:
    """Meanwhile pods' namespaces are looked through once, as soon as ipam says which pods there are."""
    looking = asyncio.create_task(_look(node), name="policy-off")
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


async def _look(node: NodeConfig) -> None:
    async with Client(node.socket("ipam"), name="ipam") as client:
        while True:
            try:
                leases = (await client.call(ipam.LEASES, ipam.ListLeases())).leases
                break
            except SuiteError:
                await asyncio.sleep(RETRY_S)
    sought = {
        str(lease.key): Sought(lease.key.ifname, tuple(lease.addresses)) for lease in leases if lease.mode in IN_THE_POD
    }
    if not sought:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="policy-off") as thread:
        try:
            gone = await asyncio.get_running_loop().run_in_executor(thread, take_away_inside, sought, TABLE)
        except SuiteError as error:
            # Whoever never enforced anything needs no right to look.
            log.info("pods_not_looked_at", why=error.message)
            return
    if gone:
        log.info("pods_rules_removed", pods=len(gone))
