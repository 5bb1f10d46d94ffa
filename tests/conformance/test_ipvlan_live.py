"""Policies in mode shared-ipvlan: what test_exclusive_live.py asks of rules in pods' namespaces, on a lab in a guest.

`make conformance MODE=shared-ipvlan`. What CI asks of policies in this mode is tests/kernel/test_ipvlan_policy.py's and
test_ipvlan_cells.py's.
"""

import os
import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
import pytest_asyncio

from shared.model import Mode
from tests.conformance.flooding import behind_the_rules, received_by_closed_pods
from tests.conformance.site import Site, site
from tests.conformance.test_exclusive_live import (
    test_a_denied_connection_times_out_and_the_node_is_answered,
    test_a_pods_own_rules_are_left_alone,
    test_a_services_backend_on_the_node_is_judged_by_who_really_asks,
    test_every_cell,
    test_off_takes_all_of_ours_and_only_ours,
    test_policies_hold_while_the_service_is_killed_and_started,
    test_rules_removed_while_nobody_looks_come_back_with_the_service,
    test_rules_that_a_privileged_container_removes_come_back_and_the_pod_says_so,
    test_what_a_pod_asks_of_a_service_is_judged_by_the_backend,
)
from tests.policy.conftest import vectors
from tests.system.modes.modes import params

__all__ = [
    "test_a_denied_connection_times_out_and_the_node_is_answered",
    "test_a_pods_own_rules_are_left_alone",
    "test_a_services_backend_on_the_node_is_judged_by_who_really_asks",
    "test_every_cell",
    "test_off_takes_all_of_ours_and_only_ours",
    "test_policies_hold_while_the_service_is_killed_and_started",
    "test_rules_removed_while_nobody_looks_come_back_with_the_service",
    "test_rules_that_a_privileged_container_removes_come_back_and_the_pod_says_so",
    "test_what_a_pod_asks_of_a_service_is_judged_by_the_backend",
    "vectors",
]

if os.environ.get("TERWAY_CONFORMANCE") != "all":
    pytest.skip("a lab more than `make test-kernel` has time for", allow_module_level=True)

STARTS, AT_ONCE = 200, 1
pytestmark = [pytest.mark.lab, pytest.mark.timeout(7200), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=params([Mode.SHARED_IPVLAN]))
async def cluster(request: SimpleNamespace) -> AsyncIterator[Site]:
    async with site(f"np{uuid.uuid4().hex[:6]}", request.param) as made:
        yield made


async def test_not_one_packet_gets_in_from_a_peer_that_is_denied(cluster: Site) -> None:
    """Started again where the first attempt fails, as by a kubelet: with two floods on its one processor the guest may
    take longer than services wait for each other."""

    async def nothing() -> None:
        pass

    got = await received_by_closed_pods(cluster, STARTS, AT_ONCE, behind_the_rules, nothing)
    assert got == [(0, 0)] * STARTS
    print(f"{STARTS} pods started under floods: not one packet came in")
