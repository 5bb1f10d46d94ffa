import msgspec
import pytest

from services.ipam.core.garbage import Look, PodFacts, Suspect, finding, look, siblings
from shared.contracts.ipam import Lease
from shared.model import AttachmentKey, EniId, Ip, Mac, Mode, PodKey
from tests.ipam.world import key

POD = PodKey("default", "web")
RUNNING = PodFacts(frozenset({"u1"}))
NOBODY: frozenset[AttachmentKey] = frozenset()


def lease(container: str = "a", *, uid: str = "u1", granted_at: float = 0.0, ifname: str = "eth0") -> Lease:
    return Lease(
        key=key(container, ifname=ifname),
        pod=POD,
        pod_uid=uid,
        mode=Mode.SHARED_VETH,
        host_link=f"cali{container}{ifname}",
        eni_id=EniId("eni-1"),
        eni_mac=Mac("00:16:3e:00:00:01"),
        ipv4=Ip("192.168.0.1"),
        granted_at=granted_at,
    )


@pytest.mark.parametrize(
    ("pod", "uid", "alive", "expected"),
    [
        (None, "u1", False, "the pod is gone"),
        (None, "u1", True, ""),  # force-deleted, but its sandbox still uses the address
        (RUNNING, "u1", False, ""),
        (RUNNING, "u0", False, "the pod was replaced by another of the same name"),
        (RUNNING, "u0", True, ""),
        (RUNNING, "", False, ""),
        (PodFacts(frozenset({"u1"}), finished=True), "u1", False, "the pod has run to its end"),
        (PodFacts(frozenset({"u1"}), finished=True), "u1", True, ""),
        (PodFacts(frozenset({"mirror", "u1"})), "u1", False, ""),
    ],
)
def test_both_sides_must_agree(pod: PodFacts | None, uid: str, alive: bool, expected: str) -> None:
    held = lease(uid=uid)
    assert finding(held, pod, frozenset({held.key}) if alive else NOBODY, [held]) == expected


def test_a_sandbox_that_a_younger_one_replaced() -> None:
    old, young = lease("a", granted_at=1.0), lease("b", granted_at=2.0)
    both = [old, young]
    assert finding(old, RUNNING, frozenset({young.key}), both) == "a younger sandbox of the pod is connected"
    assert finding(old, RUNNING, NOBODY, both) == ""
    assert finding(young, RUNNING, frozenset({old.key}), both) == "", "an ADD in progress beside the old sandbox"


def see(leases: list[Lease], now: float, before: dict[AttachmentKey, Suspect], *, present: bool = False) -> Look:
    pods = {POD: RUNNING} if present else {}
    return look(leases, pods, NOBODY, before, now, min_age_s=120.0, confirm_s=60.0)


def test_suspected_first_confirmed_at_a_later_look() -> None:
    held = [lease()]
    first = see(held, 200.0, {})
    assert first == Look({key("a"): Suspect(200.0, "the pod is gone")}, [])
    early = see(held, 259.0, first.suspects)
    assert (early.suspects, early.confirmed) == (first.suspects, [])
    assert see(held, 260.0, early.suspects).confirmed == [key("a")]


def test_a_look_that_finds_it_in_use_begins_anew() -> None:
    held = [lease()]
    first = see(held, 200.0, {})
    assert see(held, 230.0, first.suspects, present=True) == Look({}, [])
    assert see(held, 260.0, {}).confirmed == []


def test_young_leases_are_left_alone() -> None:
    assert see([lease(granted_at=100.0)], 219.0, {}) == Look({}, [])
    assert see([lease(granted_at=100.0)], 220.0, {}).suspects


def test_siblings_are_the_sandboxes_of_one_pod() -> None:
    first, second, other = lease("a"), lease("b"), lease("a", ifname="net1")
    assert siblings(first, [first, second, other]) == [first, second]


def test_interfaces_of_one_sandbox_are_no_siblings() -> None:
    first, second = lease("a", granted_at=1.0), lease("a", granted_at=2.0, ifname="net1")
    second = msgspec.structs.replace(second, ipv4=Ip("192.168.0.2"))
    found = look([first, second], {POD: RUNNING}, frozenset({second.key}), {}, 500.0, min_age_s=120.0, confirm_s=60.0)
    assert found.suspects == {}
