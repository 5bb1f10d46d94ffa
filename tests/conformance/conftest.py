"""One lab for all that is asked of running policies."""

import os
import uuid
from collections.abc import AsyncIterator

import pytest_asyncio

from compose.lab.record import Stack
from shared.model import Mode
from tests.conformance.site import Site, site


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster() -> AsyncIterator[Site]:
    mode = Mode(os.environ.get("TERWAY_CONFORMANCE_MODE") or Mode.SHARED_VETH)
    stack: Stack = "dual" if os.environ.get("TERWAY_CONFORMANCE_STACK") == "dual" else "ipv4"
    async with site(f"np{uuid.uuid4().hex[:6]}", mode, stack) as made:
        yield made
