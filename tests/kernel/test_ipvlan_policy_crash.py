"""Killed wherever rules are written while a slave's pod is judged: real packets meet the old policy or the new one.

What dies is a fork of this process, as in test_ipvlan_crash.py. The policy service as a whole, killed and started, is
tests/conformance/test_exclusive_live.py's.
"""

from collections.abc import Iterator

import pytest

from services.policy.adapters.kernel import Kernel
from services.policy.core import objects
from services.policy.pods import Beside
from shared import crashpoint
from shared.contracts.policy import Attach
from shared.model import Mode, PodKey
from tests.kernel.needs import needs
from tests.kernel.site import SERVICES, Site, asked, echo, nft, running, site
from tests.kernel.test_ipvlan_crash import ROOT, dies_at, lives
from tests.policy.apply.node import deny_all, node, pod
from tests.system.dataplane.world import NODE_IP, NODE_IP6, Memory, Sandbox, plug

pytestmark = [pytest.mark.system, needs(links=("ipvlan",))]

POINTS = sorted(crashpoint.names(ROOT / "services/policy"))
CLOSED = deny_all("shop")
OPEN = objects.read(
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "shop", "uid": "p1"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]},
    },
    objects.KubePolicy,
)


@pytest.fixture
def world() -> Iterator[Site]:
    with site() as made:
        yield made


async def wired(*boxes: Sandbox) -> None:
    async with running(Memory()) as dataplane:
        for box in boxes:
            await plug(dataplane, box)


async def judged(a: Sandbox, b: Sandbox, *policies: object) -> None:
    """A life of the policy service: pod a attached under the first policy, then under each of the others."""
    async with Kernel() as kernel, node(bound_s=60.0, kernel=kernel) as made:
        for app, box in (("a", a), ("b", b)):
            made.says(pod(f"shop/{app}", uid=app, address=box.ipv4, app=app))
        made.says(policies[0])
        made.begin()
        made.pods.beside(Beside((NODE_IP, NODE_IP6), tuple(SERVICES)))
        lease = a.lease
        await made.gate.attach(
            Attach(lease.key, PodKey("shop", "a"), "a", Mode.SHARED_IPVLAN, lease.host_link, lease.addresses, a.path)
        )
        for policy in policies[1:]:
            made.says(policy)
            made.live.flush()
            await made.enforcer.in_force()


def answered(b: Sandbox, a: Sandbox) -> bool:
    return bool(asked(b, a.ipv4, within=3))


@pytest.mark.parametrize("point", POINTS)
def test_a_death_leaves_the_old_rules_or_the_new_ones(point: str, world: Site) -> None:
    a, b = world.sandbox(), world.sandbox()
    lives(wired(a, b))
    lives(judged(a, b, CLOSED))
    with echo(a):
        assert not answered(b, a)
    if point.startswith("policy.repair."):  # what is found at a start is mended
        nft(a, "add chain inet terway foreign")
    dies_at(point, judged(a, b, CLOSED, OPEN))
    with echo(a):
        if not point.startswith("policy.apply."):  # the node's own rules and the pod's are written side by side
            assert answered(b, a) is (point == "policy.pod.after_transaction")
        lives(judged(a, b, CLOSED, OPEN))
        assert answered(b, a)
        lives(judged(a, b, CLOSED))
        assert not answered(b, a)
