"""What the kernel is found to have is what iproute2 can make of it, and the trial leaves nothing."""

import pytest

from services.eni_manager.adapters.kernel import known
from services.eni_manager.config import EniManagerConfig, Settings
from services.eni_manager.core.preflight import NEEDS, Kinds, kernel_lacks
from services.eni_manager.service import fitted, require_kernel
from shared.eni_conf import EniConf
from shared.errors import Refused
from shared.model import Mode
from tests.system.dataplane.world import World

pytestmark = pytest.mark.system

MADE_BY = {
    "veth": "link add x type veth",
    "bridge": "link add x type bridge",
    "ipvlan": "link add link eth1 name x type ipvlan mode l2",
    "vlan": "link add link eth1 name x type vlan id 7",
    "dummy": "link add x type dummy",
    "nonsense": "link add x type nonsense",
    "tbf": "qdisc add dev eth1 root tbf rate 1mbit burst 4k latency 25ms",
    "htb": "qdisc add dev eth1 root htb",
    "fq_codel": "qdisc add dev eth1 root fq_codel",
    "prio": "qdisc add dev eth1 root prio",
    "clsact": "qdisc add dev eth1 clsact",
    "u32": "filter add dev eth1 ingress pref 1 protocol ip u32 match u32 0 0",
    "matchall": "filter add dev eth1 ingress pref 2 protocol ip matchall classid 1:1",
    "fw": "filter add dev eth1 ingress pref 3 handle 1 protocol ip fw classid 1:1",
}
LINKS, QDISCS = ("veth", "bridge", "ipvlan", "vlan", "dummy", "nonsense"), ("tbf", "htb", "fq_codel", "prio", "clsact")
CLASSIFIERS = ("u32", "matchall", "fw")


def makes(world: World, kind: str) -> bool:
    """Can iproute2 make one on the node? `ip` and `tc` fail by an assertion."""
    tool = world.node.ip if kind in LINKS else world.node.tc
    try:
        tool(*MADE_BY[kind].split())
    except AssertionError:
        return False
    if kind in LINKS:
        tool("link", "del", "x")
    return True


def test_the_kernel_is_judged_as_by_iproute2(world: World) -> None:
    before = world.node.state()
    found = known(Kinds(LINKS, QDISCS, CLASSIFIERS))
    assert world.node.state() == before
    assert found.links == tuple(kind for kind in LINKS if makes(world, kind))
    found_qdiscs = []
    for kind in QDISCS:  # clsact comes last and stays, for the filters
        if makes(world, kind):
            found_qdiscs.append(kind)
            if kind != "clsact":
                world.node.tc("qdisc", "del", "dev", "eth1", "root")
    assert found.qdiscs == tuple(found_qdiscs)
    assert found.classifiers == tuple(kind for kind in CLASSIFIERS if makes(world, kind))
    assert {"veth", "tbf"} <= {*found.links, *found.qdiscs} and "nonsense" not in found.links


async def test_a_mode_that_the_kernel_cannot_carry_is_refused_by_name() -> None:
    await require_kernel(Mode.SHARED_VETH)
    lacking = kernel_lacks(Mode.SHARED_IPVLAN, known(NEEDS[Mode.SHARED_IPVLAN]))
    if lacking:
        with pytest.raises(Refused, match=f"shared-ipvlan cannot run on this node: its kernel has no {lacking[0]}"):
            await require_kernel(Mode.SHARED_IPVLAN)
    else:
        await require_kernel(Mode.SHARED_IPVLAN)


async def test_ipvlan_falls_back_to_veth_only_where_that_is_configured() -> None:
    lacking = kernel_lacks(Mode.SHARED_IPVLAN, known(NEEDS[Mode.SHARED_IPVLAN]))

    def settings(mode: Mode, *, fallback: bool) -> Settings:
        return Settings(EniManagerConfig(mode=mode, allowed_modes=tuple(Mode), ipvlan_fallback=fallback), EniConf())

    found, because = await fitted(settings(Mode.SHARED_VETH, fallback=True))
    assert (found.own.mode, because) == (Mode.SHARED_VETH, "")
    asked = settings(Mode.SHARED_IPVLAN, fallback=False)
    if lacking:
        with pytest.raises(Refused, match="shared-ipvlan cannot run"):
            await fitted(asked)
        found, because = await fitted(settings(Mode.SHARED_IPVLAN, fallback=True))
        assert found.own.mode is Mode.SHARED_VETH
        assert lacking[0] in because and "shared-veth runs instead" in because
    else:
        assert await fitted(asked) == (asked, "")
