"""Limits by every way that asks for them, and changed on a pod that runs, whatever the mode."""

from pathlib import Path

import pytest

from compose.lab.sandbox import Sandbox
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import PODS
from tests.system.modes.modes import MODES
from tests.system.modes.site import Site, eventually, inside

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]


def rates(site: Site, node: str, sandbox: Sandbox) -> tuple[str, str]:
    """The rates that tc shows for ingress and egress; empty: unlimited."""
    entry = site.node(node).netns
    link = inside(entry, "ip", "route", "show", sandbox.addresses[0]).split(" dev ")[1].split()[0]
    intake = MODES[site.mode].intake
    ingress = _rate(sandbox.entry, intake) if intake else _rate(entry, link)
    return ingress, _rate(sandbox.entry, "eth0")


def _rate(netns: Path, link: str) -> str:
    if link not in inside(netns, "ip", "-o", "link"):
        return ""
    shown = inside(netns, "tc", "qdisc", "show", "dev", link, "root")
    return shown.split(" rate ")[1].split()[0] if "tbf" in shown else ""


ASKED = {
    "k8s.aliyun.com/ingress-bandwidth=1000000B k8s.aliyun.com/egress-bandwidth=125000B": ("8Mbit", "1Mbit"),
    "kubernetes.io/ingress-bandwidth=10M": ("10Mbit", ""),  # which this runtime hands over as the capability, too
    "k8s.aliyun.com/egress-bandwidth=1M kubernetes.io/egress-bandwidth=3M": ("", "3Mbit"),
    "k8s.aliyun.com/egress-bandwidth=10": ("", ""),
}


@pytest.mark.parametrize("annotations", ASKED)
async def test_a_pod_is_limited_as_it_asks(annotations: str, site: Site) -> None:
    asked = dict(pair.split("=") for pair in annotations.split())
    async with site.pod("limited", "node1", **asked) as sandbox:
        assert rates(site, "node1", sandbox) == ASKED[annotations]


async def test_limits_change_on_a_pod_that_runs(site: Site) -> None:
    async with (
        KubeClient(KubeAddress(f"unix://{site.layout.kube_socket}")) as kube,
        site.pod("limited", "node1") as sandbox,
    ):

        async def shown() -> tuple[str, str]:
            return rates(site, "node1", sandbox)

        for annotations, expected in (
            ({"k8s.aliyun.com/ingress-bandwidth": "1000000B"}, ("8Mbit", "")),
            ({"kubernetes.io/egress-bandwidth": "5M"}, ("8Mbit", "5Mbit")),
            ({"k8s.aliyun.com/ingress-bandwidth": "fast", "kubernetes.io/egress-bandwidth": "6M"}, ("8Mbit", "6Mbit")),
            ({"k8s.aliyun.com/ingress-bandwidth": None, "kubernetes.io/egress-bandwidth": None}, ("", "")),
        ):
            await kube.patch(PODS, dict, "limited", {"metadata": {"annotations": annotations}}, namespace="default")
            await eventually(shown, expected)
            await eventually(lambda: site.check("node1", sandbox), "")  # the kernel comes first, the lease after it
        assert await site.by("outside", "default/limited:80/tcp") == "default/limited"
