"""Names that others expect."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.ipam import Lease
from shared.model import AttachmentKey, EniId, Ip, Mac, Mode, PodKey, host_link_name

IFNAMSIZ = 16


@pytest.mark.parametrize(
    ("namespace", "name", "ifname", "link"),
    [
        ("default", "client-b6989bf87-2bgtc", "eth0", "calic95a4947e07"),
        ("default", "nginx-0", "eth0", "calic048fd9a750"),
        ("default", "nginx-0", "", "calic048fd9a750"),
        ("default", "nginx-0", "eth1", "cali898d765620e"),
        ("kube-system", "coredns-5d78c9869d-abcde", "eth0", "cali4d5f75c480c"),
        ("default", "test-pod", "eth0", "cali7fba7a35b74"),
    ],
)
def test_host_link_is_terways_name(namespace: str, name: str, ifname: str, link: str) -> None:
    """terway.md §5.1.1, the examples."""
    assert host_link_name(PodKey(namespace, name), ifname) == link


@given(st.text(max_size=300), st.text(max_size=300), st.sampled_from(["", "eth0", "eth1"]), st.text(max_size=70))
def test_host_link_fits_the_kernel(namespace: str, name: str, ifname: str, salt: str) -> None:
    link = host_link_name(PodKey(namespace, name), ifname, salt=salt)
    assert re.fullmatch(r"cali[0-9a-f]{11}", link) and len(link) < IFNAMSIZ


def test_host_links_differ_where_they_must() -> None:
    pod = PodKey("ns", "web")
    assert len({host_link_name(pod, "eth0"), host_link_name(pod, "eth1"), host_link_name(pod, "eth0", salt="c1")}) == 3


def test_keys_read_well() -> None:
    assert str(PodKey("ns", "web")) == "ns/web"
    assert str(AttachmentKey("terway", "c1", "eth0")) == "terway/c1/eth0"


def test_a_leases_addresses() -> None:
    def lease(ipv4: str | None, ipv6: str | None) -> Lease:
        return Lease(
            key=AttachmentKey("n", "c", "eth0"),
            pod=PodKey("ns", "web"),
            pod_uid="",
            mode=Mode.SHARED_VETH,
            host_link="cali0",
            eni_id=EniId("eni-1"),
            eni_mac=Mac("00:16:3e:00:00:01"),
            ipv4=None if ipv4 is None else Ip(ipv4),
            ipv6=None if ipv6 is None else Ip(ipv6),
        )

    assert lease("10.0.0.1", "fd00::1").addresses == ("10.0.0.1", "fd00::1")
    assert lease("10.0.0.1", None).addresses == ("10.0.0.1",)
    assert lease(None, "fd00::1").addresses == ("fd00::1",)
