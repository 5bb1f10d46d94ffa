"""Policies in mode exclusive-eni: rules in pods' own namespaces, on two nodes, with real packets."""

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.model import Mode
from tests.conformance.site import Site, site
from tests.conformance.test_enforced_live import DENY_X, every, step

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Site]:
    async with site(f"np{uuid.uuid4().hex[:6]}", Mode.EXCLUSIVE_ENI) as made:
        yield made


async def test_denied(cluster: Site) -> None:
    await cluster.enter(step(DENY_X))
    answers = await cluster.ask(every("x/a", cluster.addresses))
    assert set(answers.values()) == {"X"}, "no answer of any kind: no reset, no ICMP"
