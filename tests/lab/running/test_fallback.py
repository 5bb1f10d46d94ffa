"""`lab up --mode shared-ipvlan --ipvlan-fallback`: what nodes run without IPvlan in the kernel, and who hears of it."""

import json
from collections.abc import Callable

import pytest

from compose.lab.waiting import until
from services.eni_manager.adapters.kernel import known
from services.eni_manager.core.preflight import NEEDS, kernel_lacks
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import EVENTS
from shared.model import Mode
from tests.lab.running.conftest import Lab

LACKING = kernel_lacks(Mode.SHARED_IPVLAN, known(NEEDS[Mode.SHARED_IPVLAN]))
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not LACKING, reason="this kernel has IPvlan: nothing to fall back from"),
]


def test_without_the_option_the_mode_is_refused_and_nothing_is_made(labs: Callable[[], Lab]) -> None:
    made = labs()
    refused = made.run("up", "--runtime", "cni", "--nodes", "1", "--mode", "shared-ipvlan", ok=False)
    assert refused.returncode == 1
    assert f"has no {LACKING[0]}" in refused.stderr and "make demo MODE=shared-ipvlan" in refused.stderr
    assert made.left == []


async def test_with_it_nodes_run_veth_and_an_event_says_so(labs: Callable[[], Lab]) -> None:
    made = labs()
    made.run("up", "--runtime", "cni", "--nodes", "1", "--mode", "shared-ipvlan", "--ipvlan-fallback")
    made.run("pod", "add", "default/a", "--node", "node1", "--serve", "80/tcp")
    made.run("pod", "add", "default/b", "--node", "node1")
    assert made.ask("probe", "default/b", "default/a:80/tcp")["by"] == "default/a"
    shown = made.run("exec", "default/a", "--", "ip", "-j", "-d", "link", "show", "eth0").stdout
    assert json.loads(shown)[0]["linkinfo"]["info_kind"] == "veth"

    async with KubeClient(KubeAddress(f"unix://{made.layout.kube_socket}")) as kube:
        said: list[str] = []

        async def missing() -> str:
            said[:] = [
                event["message"]
                async for event in kube.list(EVENTS, dict)
                if event["involvedObject"]["name"] == "node1" and event["type"] == "Warning"
            ]
            return "" if any("ipvlan_fallback" in message for message in said) else str(said)

        await until(missing, what="the event", within_s=30)
    assert any(
        f"its kernel has no {LACKING[0]}" in message and "shared-veth runs instead" in message for message in said
    )
    assert made.run("audit", "--within", "60").returncode == 0
    made.run("down")
    assert made.left == []
