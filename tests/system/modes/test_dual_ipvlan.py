"""What test_dual.py asks of every mode, of the one whose lab is for both families from the start."""

import pytest

from shared.model import Mode
from tests.system.modes.site import Site
from tests.system.modes.test_dual import (
    test_a_host_port_by_the_portmap_plugin_in_both_families,
    test_everybody_is_reached_by_ipv6,
    test_packets_as_large_as_the_mtu_pass_whole,
    test_pods_reach_nodes_and_the_outside_by_ipv6,
)

__all__ = [
    "test_a_host_port_by_the_portmap_plugin_in_both_families",
    "test_everybody_is_reached_by_ipv6",
    "test_packets_as_large_as_the_mtu_pass_whole",
    "test_pods_reach_nodes_and_the_outside_by_ipv6",
]

ONLY = Mode.SHARED_IPVLAN
pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture(scope="session")
def pairs(site: Site) -> Site:
    """By the name that they have for it there."""
    return site
