"""Another mode is refused while pods of the old one run, and takes effect when the last of them has gone."""

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from compose.lab import audit, control, kernel, lab, services
from compose.lab.layout import Layout
from compose.lab.node import pod_ranges
from compose.lab.pods import Pods
from compose.lab.record import Options
from compose.lab.waiting import until
from shared.errors import SuiteError
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import NODES
from shared.model import Mode, PodKey
from tests.system.modes.site import Site

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]

NODE = "node1"
OPTIONS = Options(nodes=1, runtime="cni", processes=True, cooldown_s=0.2, pool_sync_s=0.5, pool=(1, 2))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def changing() -> AsyncIterator[Site]:
    layout = Layout.of(f"mc{os.getpid()}")
    record = await lab.up(layout, OPTIONS, say=lambda line: None)
    try:
        async with Pods(layout, {NODE: "cni"}) as pods, KubeClient(KubeAddress(f"unix://{layout.kube_socket}")) as kube:
            await pods.ensure_namespace("default")
            ranges = pod_ranges(layout.node(NODE), Options(mode=Mode.VPC_ROUTE))
            await kube.patch(NODES, dict, NODE, {"spec": ranges})
            yield Site(Mode.SHARED_VETH, layout, record, pods)
    finally:
        await lab.down(layout, say=lambda line: None)


async def change(site: Site, mode: Mode) -> None:
    """As an operator would: the key in the file, and the service again."""
    corner = site.node(NODE)
    config = json.loads(corner.config.read_text())
    config["eni_manager"]["mode"] = mode
    services.write_config(corner, config)
    await services.restart(corner, services.named("eni_manager"))


def answer(site: Site, page: str) -> Any:
    return services.ask(site.node(NODE), services.named("eni_manager"), page)[1]


async def refused(site: Site, *words: str) -> None:
    async def missing() -> str:
        said = "; ".join(answer(site, "/readyz").get("missing", []))
        return "" if all(word in said for word in words) else said or "ready"

    await until(missing, what=f"eni_manager says {words}", within_s=20)


@pytest.mark.parametrize(("before", "after"), [(Mode.SHARED_VETH, Mode.VPC_ROUTE), (Mode.VPC_ROUTE, Mode.SHARED_VETH)])
async def test_a_mode_change_waits_for_the_last_pod(before: Mode, after: Mode, changing: Site) -> None:
    site, new = changing, PodKey("default", "new")
    await change(site, before)
    await services.wait_ready(site.node(NODE))
    async with site.pod("old", NODE) as old:
        await change(site, after)
        await refused(site, f"mode {after} is refused", f"default/old in {before}", "drain the node")
        assert await site.by("outside", "default/old:80/tcp") == "default/old", "who runs is not disturbed"
        assert await site.check(NODE, old) == ""

        async def not_refused() -> str:
            with pytest.raises(SuiteError) as failed:
                await site.pods.add(new, node=NODE)
            await site.pods.delete(new)
            said = failed.value.message
            return "" if f"mode {after} is refused" in said and "default/old" in said else said

        await until(not_refused, what="ipam has heard of it", within_s=20)
        [mine] = (await audit.audit(site.layout, site.record)).nodes[NODE].leases
        assert mine.mode is before
    await services.wait_ready(site.node(NODE))
    async with site.pod("new", NODE) as fresh:
        assert fresh.addresses[0].startswith("10.244." if after is Mode.VPC_ROUTE else "192.168.")
        assert await site.by("outside", "default/new:80/tcp") == "default/new"
        assert await site.by("default/new", "outside:80/tcp") == "outside"
    await audit.until_clean(site.layout, site.record)
    await nothing_of(before, site)


async def nothing_of(mode: Mode, site: Site) -> None:
    """What the earlier mode had in the cloud and on the node goes."""

    async def missing() -> str:
        async with control.connect(site.layout.cloud_socket) as cloud:
            found = await cloud.audit()
        if mode is Mode.VPC_ROUTE:
            return ", ".join(cidr for cidr in found["delivered"] if "/" in cidr)
        rules = [line for line in site.state(NODE) if "lookup 512" in line]
        return ", ".join([*rules, *(eni["id"] for eni in found["enis"] if eni["type"] != "Primary")])

    await until(missing, what=f"nothing of {mode} is left", within_s=30)
    state = site.state(NODE)
    assert not any("terway_brb_masq" in line for line in state) or mode is not Mode.VPC_ROUTE, state
    left = await kernel.read(site.node(NODE).netns_name)
    assert (left.links, left.rules, left.routes) == ([], [], {})
