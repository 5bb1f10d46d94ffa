"""Is the way free, is it wired already, or is something in the way? And whose is it?"""

import pytest
from msgspec.structs import replace

from services.eni_manager.core.wiring import wire
from services.eni_manager.core.wiring.marks import RETIRED_GROUP, alias_of
from services.eni_manager.core.wiring.standing import SeenLink, Standing, belongs, stand
from shared.errors import Conflict
from shared.model import AttachmentKey, Mac
from tests.eni_manager.wiring.leases import ENI, NODE, lease

KEY = lease().key
VETH = wire(lease(), NODE, ENI).veth
HOST = SeenLink(index=40, name=VETH.host, mac=VETH.host_mac, mtu=1500, up=True, alias=VETH.alias, peer=2)
POD = SeenLink(index=2, name="eth0", mac=VETH.pod_mac, mtu=1500, up=True, peer=40)
OTHER = alias_of(AttachmentKey("terway", "other", "eth0"))
FOREIGN_POD = replace(POD, mac=Mac("02:00:00:00:00:99"))
RETIRED = replace(HOST, name="gone40", group=RETIRED_GROUP, alias=OTHER, up=False)


@pytest.mark.parametrize(
    ("host", "pod", "across", "standing"),
    [
        (None, None, None, Standing.FREE),
        (HOST, POD, HOST, Standing.WIRED),
        (replace(HOST, alias=""), POD, replace(HOST, alias=""), Standing.WIRED),  # died before the alias was set
        (HOST, None, None, Standing.REMAINS),  # the sandbox's namespace was made anew
        (replace(HOST, group=RETIRED_GROUP), None, None, Standing.REMAINS),
        (None, FOREIGN_POD, RETIRED, Standing.REMAINS),  # another attachment was unplugged from this namespace
        (None, POD, replace(RETIRED, alias=VETH.alias), Standing.REMAINS),  # this one was
    ],
)
def test_ours(host: SeenLink | None, pod: SeenLink | None, across: SeenLink | None, standing: Standing) -> None:
    assert stand(KEY, VETH, host, pod, across) is standing


@pytest.mark.parametrize(
    ("host", "pod", "across", "why"),
    [
        (replace(HOST, alias="", mac=Mac("02:00:00:00:00:98")), None, None, "belongs to somebody else"),
        (replace(HOST, alias=OTHER), None, None, "belongs to terway/other/eth0"),
        (None, FOREIGN_POD, None, "eth0 already exists"),
        (HOST, FOREIGN_POD, replace(HOST, index=41, name="other", alias="x"), "eth0 already exists"),
        (None, FOREIGN_POD, replace(HOST, alias=OTHER), "eth0 already exists"),  # wired, and alive
        (
            None,
            replace(FOREIGN_POD, index=3),
            RETIRED,
            "eth0 already exists",
        ),  # another namespace's 40
    ],
)
def test_in_the_way(host: SeenLink | None, pod: SeenLink | None, across: SeenLink | None, why: str) -> None:
    with pytest.raises(Conflict, match=why):
        stand(KEY, VETH, host, pod, across)


def test_a_retired_link_belongs_to_nobody() -> None:
    assert belongs(HOST, KEY)
    assert not belongs(replace(HOST, group=RETIRED_GROUP), KEY)
    assert not belongs(replace(HOST, alias=OTHER), KEY)
