"""One lab for all that is asked of running policies."""

import uuid
from collections.abc import AsyncIterator

import pytest_asyncio

from tests.conformance.site import Site, site


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster() -> AsyncIterator[Site]:
    async with site(f"np{uuid.uuid4().hex[:6]}") as made:
        yield made
