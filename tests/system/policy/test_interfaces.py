"""The node's interfaces and their addresses, as host endpoints are found by them."""

import subprocess
from collections.abc import Iterator

import pytest

from services.policy.adapters.interfaces import interfaces
from tests.system.policy.bench import Bench, bench

pytestmark = pytest.mark.system


@pytest.fixture
def here() -> Iterator[Bench]:
    with bench() as made:
        yield made


def test_all_of_them_with_all_addresses(here: Bench) -> None:
    def ip(*commands: str) -> None:
        for command in commands:
            subprocess.run(["ip", "-n", here.name, *command.split()], check=True)

    ip("link set lo up", "link add eth7 type veth peer name eth8", "addr add 192.0.2.7/24 dev eth7")
    ip("addr add fd00::7/64 dev eth7 nodad", "addr add 10.0.0.1 peer 10.0.0.2/32 dev eth8")
    found = here.do(interfaces)
    assert found == {
        "lo": ["127.0.0.1", "::1"],
        "eth7": ["192.0.2.7", "fd00::7"],
        "eth8": ["10.0.0.1"],
    }
