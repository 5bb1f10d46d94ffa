"""Results in every version, and our place in a chain."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cni_shim.core.chain import joined, read_previous
from services.cni_shim.core.reply import missing_from, refused
from services.cni_shim.core.request import Check
from services.cni_shim.core.spec import SUPPORTED, CniError, Code, at_least
from shared.contracts.ipam import Lease
from shared.model import AttachmentKey, EniId, Ip, Mac, Mode, PodKey

OWN: dict[str, Any] = {
    "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "sandbox": "/n"}],
    "ips": [{"address": "192.168.0.5/20", "gateway": "192.168.15.253", "interface": 0}],
    "dns": {},
}


@pytest.mark.parametrize("version", SUPPORTED)
def test_nothing_before_us(version: str) -> None:
    result = joined(None, OWN, version)
    assert ("version" in result["ips"][0]) == (not at_least(version, "1.0.0"))
    assert ("mtu" in result["interfaces"][0]) == at_least(version, "1.1.0")


@given(st.sampled_from(SUPPORTED), st.integers(0, 4), st.lists(st.integers(0, 3), max_size=4))
def test_what_was_before_us_stays_and_keeps_its_numbers(version: str, count: int, owners: list[int]) -> None:
    raw = {
        "interfaces": [{"name": f"net{n}"} for n in range(count)],
        "ips": [{"address": f"10.0.0.{n}/8", "interface": owner} for n, owner in enumerate(owners) if owner < count],
        "x-unknown": {"a": 1},
    }
    result = joined(read_previous(raw), OWN, version)
    assert result["x-unknown"] == {"a": 1}
    assert [i["name"] for i in result["interfaces"]] == [f"net{n}" for n in range(count)] + ["eth0"]
    named = {ip["address"]: result["interfaces"][ip["interface"]]["name"] for ip in result["ips"]}
    expected = {ip["address"]: f"net{ip['interface']}" for ip in raw["ips"]}  # type: ignore[attr-defined]
    assert named == {**expected, "192.168.0.5/20": "eth0"}


def test_an_older_reader_is_spared_newer_keys() -> None:
    raw = {
        "routes": [{"dst": "0.0.0.0/0", "priority": 5, "gw": "10.0.0.1"}],
        "interfaces": [{"name": "a", "pciID": "1"}],
    }
    assert joined(read_previous(raw), OWN, "1.0.0")["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]
    assert joined(read_previous(raw), OWN, "1.0.0")["interfaces"][0] == {"name": "a"}
    assert joined(read_previous(raw), OWN, "1.1.0")["routes"] == raw["routes"]


def test_our_dns_only_replaces_another_when_there_is_one() -> None:
    raw = {"dns": {"nameservers": ["1.1.1.1"]}}
    assert joined(read_previous(raw), OWN, "1.1.0")["dns"] == raw["dns"]
    assert joined(read_previous(raw), {**OWN, "dns": {"domain": "x"}}, "1.1.0")["dns"] == {"domain": "x"}


def test_check_compares_addresses_not_spellings() -> None:
    key = AttachmentKey("terway", "c", "eth0")
    lease = Lease(
        key,
        PodKey("a", "b"),
        "",
        Mode.SHARED_VETH,
        "cali0",
        EniId("e"),
        Mac("m"),
        ipv4=Ip("10.0.0.1"),
        ipv6=Ip("fd00::1"),
    )
    raw = {
        "interfaces": [{"name": "eth0"}, {"name": "eth0", "sandbox": "/n"}],
        "ips": [{"address": "10.0.0.1/20", "interface": 1}, {"address": "FD00:0::1/64"}],
    }
    previous = read_previous(raw)
    assert previous is not None
    assert missing_from(Check("1.1.0", key, "/n", None, previous), lease) == []
    previous = read_previous({**raw, "ips": [{"address": "10.0.0.1/20", "interface": 0}]})
    assert previous is not None
    assert len(missing_from(Check("1.1.0", key, "/n", None, previous), lease)) == 2, "a host interface's is not ours"


def test_error_object() -> None:
    said = json.loads(refused(CniError(Code.BAD_CONFIG, "name is missing", "really"), "0.4.0").body)
    assert said == {"cniVersion": "0.4.0", "code": 7, "msg": "name is missing", "details": "really"}
