"""A cloud on loopback without a fabric, and each of the three clients of it."""

import time
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from compose.lab.cloud import CLOUD, Account, Cloud, build_app
from compose.lab.cloud.core.account import Layout
from compose.lab.cloud.core.model import AccessKey, Delays, Instance, Quotas, VSwitch
from tests.contract.cloud.clients import Client, FirstGeneration, Ours, SecondGeneration

LAYOUT = Layout(
    vswitches=(
        VSwitch("vsw-a", "cn-lab-a", "192.168.0.0/20", "2408:4005:3cd:1000::/64"),
        VSwitch("vsw-b", "cn-lab-b", "192.168.16.0/20"),
        VSwitch("vsw-small", "cn-lab-a", "192.168.32.0/28"),
    ),
    quotas=Quotas(route_entries=3, security_groups=4, rules_per_group=5, enis=40),
)
KEYS = ("ak", "secret", "")


class Site:
    """The cloud, its one node, and clients made with keys of one's own."""

    def __init__(self, cloud: Cloud, node: Instance, make: Callable[[tuple[str, str, str]], Client]) -> None:
        self.cloud, self.account, self.node = cloud, cloud.account, node
        self.client_with = make
        self.client = make(KEYS)


@pytest.fixture(params=["ours", "first", "second"])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    account = Account(LAYOUT, delays=Delays(*[(0.01, 0.02)] * 6))
    account.add_key(AccessKey("ak", "secret"))
    node = account.run_instance("n1", vswitch="vsw-a", instance_type="ecs.g6.2xlarge", now=time.time())
    made: list[Client] = []
    async with TestServer(build_app(account)) as server, aiohttp.ClientSession() as session:
        port = server.port
        assert port is not None

        def make(keys: tuple[str, str, str]) -> Client:
            kinds: dict[str, Callable[[], Client]] = {
                "ours": lambda: Ours(session, port, keys),
                "first": lambda: FirstGeneration(port, keys),
                "second": lambda: SecondGeneration(port, keys),
            }
            made.append(kinds[request.param]())
            return made[-1]

        yield Site(server.app[CLOUD], node, make)
        for client in made:
            if isinstance(client, FirstGeneration):
                client.close()
    account.check()
