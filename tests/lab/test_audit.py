"""The audit finds every kind of leak and double, and nothing in a lab that is clean."""

import msgspec
import pytest

from compose.lab.audit import FROM_POD, NodeAudit, compare
from compose.lab.kernel import Kernel, Rule
from shared.contracts.ipam import Lease
from shared.model import AttachmentKey, EniId, Ip, Mac, Mode, PodKey

CONTAINER = "c0ffee" * 10
OTHER = "beef" * 15
MAC = "00:16:3e:00:00:01"


def lease(container: str = CONTAINER, address: str = "10.0.0.2", link: str = "cali1") -> Lease:
    return Lease(
        key=AttachmentKey("terway", container, "eth0"),
        pod=PodKey("default", "a"),
        pod_uid="u",
        mode=Mode.SHARED_VETH,
        host_link=link,
        eni_id=EniId("eni-1"),
        eni_mac=Mac(MAC),
        ipv4=Ip(address),
    )


def kernel(*addresses: str, links: list[str] | None = None, extra: tuple[Rule, ...] = ()) -> Kernel:
    rules = [Rule(FROM_POD, address, "1003") for address in addresses]
    return Kernel(
        links=["cali1"] if links is None else links,
        rules=[*rules, *extra],
        routes={address: ["cali1"] for address in addresses},
        first={address: ["cali1"] for address in addresses},
    )


CLEAN = NodeAudit(
    sandboxes=[CONTAINER],
    leases=[lease()],
    attachments={CONTAINER: "cali1"},
    kernel=kernel("10.0.0.2"),
    pool=["10.0.0.2", "10.0.0.3"],
    enis={"eni-1": ["10.0.0.2", "10.0.0.3"]},
    cloud={"eni-1": ["10.0.0.2", "10.0.0.3"]},
    deferred=0,
)


def test_a_clean_node_has_no_difference() -> None:
    assert list(compare(CLEAN, [f"tw-lab-node1-{CONTAINER[:12]}"])) == []
    devices = {MAC: [CONTAINER], "00:16:3e:00:00:02": [""]}
    assert list(compare(msgspec.structs.replace(CLEAN, devices=devices))) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sandboxes": []}, f"lease {CONTAINER} has no sandbox"),
        ({"devices": {MAC: []}}, f"the ENI with MAC {MAC} is in nowhere, not in {CONTAINER}"),
        ({"devices": {MAC: [""]}}, f"the ENI with MAC {MAC} is in the node, not in {CONTAINER}"),
        (
            {"devices": {MAC: [CONTAINER, OTHER]}},
            f"the ENI with MAC {MAC} is in {CONTAINER}, {OTHER}, not in {CONTAINER}",
        ),
        ({"devices": {"00:16:3e:00:00:02": []}}, "the ENI with MAC 00:16:3e:00:00:02 is in nowhere, not in the node"),
        ({"sandboxes": [CONTAINER, OTHER]}, f"sandbox {OTHER} has no lease"),
        ({"attachments": {}}, f"lease {CONTAINER} has no attachment"),
        ({"attachments": {CONTAINER: "cali1", OTHER: "cali2"}}, f"attachment {OTHER} has no lease"),
        ({"leases": [lease(), lease()]}, f"lease terway/{CONTAINER}/eth0 is there 2 times"),
        ({"leases": [lease(), lease(OTHER, "10.0.0.3")]}, "host link in leases cali1 is there 2 times"),
        ({"kernel": kernel("10.0.0.2", links=[])}, "lease cali1 has no host link"),
        ({"kernel": kernel("10.0.0.2", links=["cali1", "cali9"])}, "host link cali9 has no lease"),
        ({"kernel": kernel("10.0.0.2", "10.0.0.3")}, "route 10.0.0.3 has no lease"),
        ({"kernel": kernel()}, "lease 10.0.0.2 has no route"),
        (
            {"kernel": kernel("10.0.0.2", extra=(Rule(FROM_POD, "10.0.0.2", "1004"),))},
            "rule 2048: 10.0.0.2 is there 2 times",
        ),
        (
            {"kernel": kernel("10.0.0.2", extra=(Rule(512, "10.0.0.2", "main"),))},
            "rule (512, '10.0.0.2') has no lease",
        ),
        (
            {"kernel": msgspec.structs.replace(kernel("10.0.0.2"), first={})},
            "lease 10.0.0.2 has no route before the ENI's",
        ),
        (
            {"kernel": msgspec.structs.replace(kernel("10.0.0.2"), first={"10.0.0.2": ["cali2"]})},
            "route of 10.0.0.2 leads to ['cali2'] and ['cali1']",
        ),
        (
            {"kernel": kernel("10.0.0.2", extra=(Rule(FROM_POD, "10.0.0.9", "1003"),))},
            "rule (2048, '10.0.0.9') has no lease",
        ),
        (
            {"kernel": msgspec.structs.replace(kernel("10.0.0.2"), routes={"10.0.0.2": ["cali1", "cali2"]})},
            "route of 10.0.0.2 leads to cali1, cali2",
        ),
        ({"pool": ["10.0.0.2"]}, "address of eni_manager 10.0.0.3 has no address of ipam"),
        ({"enis": {}}, "ENI in the cloud eni-1 has no ENI of eni_manager"),
        ({"cloud": {}}, "ENI of eni_manager eni-1 has no ENI in the cloud"),
        ({"cloud": {"eni-1": ["10.0.0.2"]}}, "eni-1: address 10.0.0.3 has no address in the cloud"),
        ({"deferred": 2}, "2 DELs wait in the spool"),
    ],
)
def test_every_kind_of_difference_is_said(changes: dict[str, object], said: str) -> None:
    assert said in list(compare(msgspec.structs.replace(CLEAN, **changes)))


def test_with_ipvlan_the_routes_lead_to_the_nodes_slave_and_nothing_else_is_one_pods() -> None:
    slave = Kernel(links=[], rules=[], routes={"10.0.0.2": ["ipvl_7"]})
    leases = [msgspec.structs.replace(lease(), mode=Mode.SHARED_IPVLAN)]
    clean = msgspec.structs.replace(CLEAN, leases=leases, kernel=slave)
    assert list(compare(clean)) == []
    without = msgspec.structs.replace(clean, kernel=Kernel(links=[], rules=[], routes={}))
    assert list(compare(without)) == ["lease 10.0.0.2 has no route"]
    wrong = msgspec.structs.replace(clean, kernel=kernel("10.0.0.2"))
    assert "host link cali1 has no lease" in list(compare(wrong))


def test_a_namespace_of_no_sandbox_is_said() -> None:
    assert list(compare(CLEAN, ["tw-lab-node1-deadbeef0000"])) == [
        "namespace tw-lab-node1-deadbeef0000 belongs to no sandbox"
    ]
