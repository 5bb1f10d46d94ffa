"""The checklist: every rule of the CNI specification that binds a plugin (cni.md), one test each, by its number.

Drives the installed plugin as a process, and knows of the node only what `tests.cni.site.Site` offers.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.cni.site import Json, Sandbox, Site, config

pytestmark = pytest.mark.system

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
RULES = 31


def check(site: Site, sandbox: Sandbox, result: Json, version: str = "1.1.0", **extra: Any) -> Any:
    return site.plugin.run("CHECK", config(version, prevResult=result, **extra), sandbox.env)


def gc(site: Site, *valid: Sandbox, version: str = "1.1.0") -> Any:
    return site.plugin.run("GC", config(version) | attachments(*valid))


def attachments(*valid: Sandbox) -> Json:
    return {"cni.dev/valid-attachments": [{"containerID": s.id, "ifname": s.ifname} for s in valid]}


def test_every_rule_has_its_test() -> None:
    tested = {int(number) for name in globals() for number in re.findall(r"p(\d\d)_", name)}
    assert tested == set(range(1, RULES + 1))


def test_p01_exit_code_says_success_or_failure(site: Site, sandbox: Sandbox) -> None:
    assert site.add(sandbox).exit == 0
    assert site.plugin.run("CHECK", config(), sandbox.env).exit == 1
    assert site.delete(sandbox).exit == 0


def test_p02_errors_are_json_on_stdout_and_logs_are_not(site: Site, sandbox: Sandbox) -> None:
    outcome = site.add(sandbox, config("9.9.9"))
    assert set(outcome.json) >= {"cniVersion", "code", "msg"}
    assert outcome.stderr == b""


@pytest.mark.parametrize("ifname", ["sixteen-letters-", "..", "a/b", "a:b", "a b"])
def test_p03_unusable_ifname(site: Site, sandbox: Sandbox, ifname: str) -> None:
    site.add(sandbox, CNI_IFNAME=ifname).error(4, "CNI_IFNAME")
    assert site.held() == set()


@pytest.mark.parametrize("container_id", ["-a", ".a", "_a", "a b", "a/b", "a\nb", "ä"])
def test_p04_container_id_characters(site: Site, sandbox: Sandbox, container_id: str) -> None:
    site.add(sandbox, CNI_CONTAINERID=container_id).error(4, "CNI_CONTAINERID")


def test_p04_container_id_of_every_allowed_character(site: Site) -> None:
    with site.sandbox(id="0a_.-Z") as sandbox:
        site.add(sandbox).ok()


@pytest.mark.parametrize("version", VERSIONS)
def test_p05_add_prints_a_result(site: Site, sandbox: Sandbox, version: str) -> None:
    result = site.add(sandbox, config(version)).ok()
    assert result["cniVersion"] == version
    assert [i["name"] for i in result["interfaces"]] == ["eth0"]
    assert len(result["ips"]) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_p06_add_passes_prev_result_on(site: Site, sandbox: Sandbox, version: str) -> None:
    result = site.add(sandbox, config(version, prevResult=previous(version))).ok()
    assert result["interfaces"][0] == {"name": "net1", "sandbox": "/run/netns/other", "x-unknown": 1}
    assert result["ips"][0] == previous(version)["ips"][0]
    assert result["routes"] == previous(version)["routes"]
    assert result["dns"] == {"nameservers": ["10.0.0.10"]}


def previous(version: str) -> Json:
    family = {} if version >= "1.0.0" else {"version": "4"}
    return {
        "cniVersion": version,
        "interfaces": [{"name": "net1", "sandbox": "/run/netns/other", "x-unknown": 1}],
        "ips": [{"address": "10.9.0.2/24", "interface": 0, **family}],
        "routes": [{"dst": "10.0.0.0/8", "gw": "10.9.0.1"}],
        "dns": {"nameservers": ["10.0.0.10"]},
    }


def test_p07_interface_name_taken_in_the_container(site: Site, sandbox: Sandbox) -> None:
    site.add(sandbox).ok()
    other = Sandbox(sandbox.netns, pod="web-1")
    site.add(other).error(102, "eth0")
    assert site.held() == {(sandbox.id, "eth0")}, "what the first one has stays, what the second had goes"
    assert site.wired() == {(sandbox.id, "eth0")}


def test_p08_del_of_what_is_not_there(site: Site, sandbox: Sandbox) -> None:
    site.delete(sandbox).ok()
    site.delete(sandbox, CNI_NETNS="/run/netns/vanished").ok()


def test_p08_del_when_only_the_mount_point_is_left(site: Site, sandbox: Sandbox, tmp_path: Any) -> None:
    site.add(sandbox).ok()
    (tmp_path / "netns").touch()
    site.delete(sandbox, CNI_NETNS=str(tmp_path / "netns")).ok()
    assert site.held() == site.wired() == set()


def test_p08_del_after_the_interface_was_lost(site: Site, sandbox: Sandbox) -> None:
    site.add(sandbox).ok()
    site.lose_interface(sandbox)
    site.delete(sandbox).ok()
    assert site.held() == set()


def test_p08_del_after_the_namespace_vanished(site: Site, sandbox: Sandbox) -> None:
    site.add(sandbox).ok()
    site.delete(sandbox, CNI_NETNS="/run/netns/vanished").ok()
    assert site.held() == site.wired() == set()


@pytest.mark.parametrize("empty", [None, {}], ids=["null", "object"])
def test_p09_del_with_empty_prev_result(site: Site, sandbox: Sandbox, empty: Json | None) -> None:
    site.add(sandbox).ok()
    site.delete(sandbox, config(prevResult=empty)).ok()
    assert site.held() == set()


def test_p10_del_twice_the_second_time_as_containerd_sends_it(site: Site, sandbox: Sandbox) -> None:
    result = site.add(sandbox).ok()
    site.delete(sandbox, config(prevResult=result)).ok()
    site.delete(sandbox, config(), CNI_NETNS="").ok()
    site.delete(sandbox, config(), CNI_NETNS="").ok()
    assert site.held() == site.wired() == set()


@pytest.mark.parametrize("netns", [None, ""], ids=["unset", "empty"])
def test_p11_del_without_netns(site: Site, sandbox: Sandbox, netns: str | None) -> None:
    site.add(sandbox).ok()
    site.delete(sandbox, CNI_NETNS=netns).ok()
    assert site.held() == site.wired() == set()


def test_p12_check_needs_prev_result_and_uses_it(site: Site, sandbox: Sandbox) -> None:
    result = site.add(sandbox).ok()
    site.plugin.run("CHECK", config(), sandbox.env).error(7, "prevResult")
    forgot_address = {**result, "ips": []}
    check(site, sandbox, forgot_address).error(100, result["ips"][0]["address"].split("/")[0])
    forgot_interface = {**result, "interfaces": [], "ips": []}
    check(site, sandbox, forgot_interface).error(100, "eth0")


def test_p13_check_tolerates_later_plugins(site: Site, sandbox: Sandbox) -> None:
    result = site.add(sandbox).ok()
    changed = {
        **result,
        "interfaces": [{**result["interfaces"][0], "mac": "02:aa:aa:aa:aa:aa", "mtu": 1400}, {"name": "veth9"}],
        "ips": [*result["ips"], {"address": "10.0.0.1/32", "interface": 0}],
        "routes": [{"dst": "10.1.0.0/16"}],
    }
    check(site, sandbox, changed).ok()


def test_p14_check_finds_a_lost_interface(site: Site, sandbox: Sandbox) -> None:
    result = site.add(sandbox).ok()
    site.lose_interface(sandbox)
    check(site, sandbox, result).error(100, "eth0")


def test_p15_check_finds_a_lost_reservation(site: Site, sandbox: Sandbox) -> None:
    result = site.add(sandbox).ok()
    site.lose_reservation(sandbox)
    check(site, sandbox, result).error(100, "no address is reserved")


def test_p15_check_finds_lost_rules(site: Site, sandbox: Sandbox) -> None:
    result = site.add(sandbox).ok()
    site.lose_rules(sandbox)
    check(site, sandbox, result).error(100, "rules")


@pytest.mark.parametrize("service", ["ipam", "eni_manager", "policy"])
def test_p15_check_finds_a_missing_daemon(site: Site, sandbox: Sandbox, service: str) -> None:
    result = site.add(sandbox).ok()
    with site.away(service):
        check(site, sandbox, result).error(11, service)


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_p16_check_right_after_add_passes(site: Site, sandbox: Sandbox, version: str) -> None:
    result = site.add(sandbox, config(version)).ok()
    assert check(site, sandbox, result, version).stdout == b""
    check(site, sandbox, result, version).ok()


def test_p17_status_when_able(site: Site) -> None:
    outcome = site.plugin.run("STATUS", config())
    assert outcome.ok() == {}


def test_p17_status_when_exhausted(site: Site) -> None:
    with site.exhausted():
        site.plugin.run("STATUS", config()).error(50, "exhausted")


def test_p17_status_when_running_pods_suffer_too(site: Site) -> None:
    with site.impaired():
        site.plugin.run("STATUS", config()).error(51, "detached")


@pytest.mark.parametrize("service", ["ipam", "eni_manager", "policy", "gateway"])
def test_p17_status_when_a_service_is_away(site: Site, service: str) -> None:
    with site.away(service):
        site.plugin.run("STATUS", config()).error(50, service)
    site.plugin.run("STATUS", config()).ok()


def test_p18_status_decides_nothing(site: Site, sandbox: Sandbox) -> None:
    result = site.add(sandbox).ok()
    with site.impaired():
        site.plugin.run("STATUS", config()).error(51)
        check(site, sandbox, result).ok()
        site.delete(sandbox).ok()
    assert site.held() == set()


DELEGATES: Json = {"ipam": {"type": "host-local", "ranges": []}}


def test_p19_status_cannot_leave_a_delegate_out(site: Site) -> None:
    """We delegate to no plugin; a configuration that asks for one is refused instead of half obeyed."""
    site.plugin.run("STATUS", config(**DELEGATES)).error(2, "ipam.type", "host-local")


@pytest.mark.parametrize("given", VERSIONS)
def test_p20_version(site: Site, given: str) -> None:
    result = site.plugin.run("VERSION", {"cniVersion": given}).ok()
    assert result == {"cniVersion": given, "supportedVersions": list(VERSIONS)}


def test_p21_gc_removes_what_is_not_valid_and_prints_nothing(site: Site, sandbox: Sandbox) -> None:
    with site.sandbox(pod="web-1") as second, site.sandbox(pod="web-2") as third:
        for each in (sandbox, second, third):
            site.add(each).ok()
        site.lose_reservation(third)
        assert gc(site, sandbox).stdout == b""
        assert site.held() == site.wired() == {(sandbox.id, "eth0")}


def test_p21_gc_leaves_other_networks_alone(site: Site, sandbox: Sandbox) -> None:
    site.add(sandbox).ok()
    site.plugin.run("GC", config() | {"name": "another"} | attachments()).ok()
    assert site.held() == {(sandbox.id, "eth0")}
    gc(site).ok()
    assert site.held() == set()


def test_p21_gc_continues_on_errors_and_reports_them(site: Site, sandbox: Sandbox) -> None:
    with site.sandbox(pod="web-1") as second:
        site.add(sandbox).ok()
        site.add(second).ok()
        with site.away("policy"):
            gc(site).error(11, "2 attachments", sandbox.id, second.id)
        assert site.held() == set(), "what could be removed is removed"
        gc(site).ok()
        site.delete(sandbox).ok()
        site.delete(second).ok()


def test_p22_gc_cannot_leave_a_delegate_out(site: Site) -> None:
    site.plugin.run("GC", config(**DELEGATES) | attachments()).error(2, "ipam.type", "host-local")


def test_p23_concurrent_adds_and_dels_of_different_containers(site: Site) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        sandboxes = [stack.enter_context(site.sandbox(pod=f"web-{n}")) for n in range(16)]
        results = [outcome.ok() for outcome in pool.map(site.add, sandboxes)]
        assert len({result["ips"][0]["address"] for result in results}) == 16
        assert len(site.held()) == 16
        for outcome in pool.map(site.delete, sandboxes):
            outcome.ok()
        assert site.held() == site.wired() == set()


def test_p24_check_cannot_leave_a_delegate_out_and_del_has_none(site: Site, sandbox: Sandbox) -> None:
    result = site.add(sandbox).ok()
    check(site, sandbox, result, **DELEGATES).error(2, "ipam.type", "host-local")
    site.delete(sandbox, config(**DELEGATES)).ok()


def test_p25_add_never_begins_with_a_delegate(site: Site, sandbox: Sandbox) -> None:
    site.add(sandbox, config(**DELEGATES)).error(2, "ipam.type", "host-local")
    assert site.held() == site.wired() == set()


def test_p26_nothing_is_executed_from_cni_path(site: Site, sandbox: Sandbox, tmp_path: Any) -> None:
    trap = tmp_path / "host-local"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
    trap.chmod(0o755)
    site.add(sandbox, config(**DELEGATES), CNI_PATH=str(tmp_path)).error(2)
    site.add(sandbox, CNI_PATH=str(tmp_path)).ok()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_p27_keys_of_the_result(site: Site, sandbox: Sandbox, version: str) -> None:
    result = site.add(sandbox, config(version)).ok()
    (interface,), (ip,) = result["interfaces"], result["ips"]
    assert set(result) == {"cniVersion", "interfaces", "ips", "dns"}
    assert set(interface) == {"name", "mac", "sandbox"} | ({"mtu"} if version == "1.1.0" else set())
    assert interface["sandbox"] == sandbox.netns
    assert re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", interface["mac"])
    assert set(ip) == {"address", "gateway", "interface"} | ({"version"} if version < "1.0.0" else set())
    assert ip["interface"] == 0
    assert re.fullmatch(r"192\.168\.\d+\.\d+/20", ip["address"]), "the mask is the vSwitch's"
    assert ip["gateway"] == "192.168.15.253"


@pytest.mark.parametrize("version", VERSIONS)
def test_p28_own_part_is_added_to_prev_result(site: Site, sandbox: Sandbox, version: str) -> None:
    result = site.add(sandbox, config(version, prevResult=previous(version))).ok()
    assert [i["name"] for i in result["interfaces"]] == ["net1", "eth0"]
    assert [ip["interface"] for ip in result["ips"]] == [0, 1]
    assert result["cniVersion"] == version


def test_p29_an_ipam_result_is_never_ours(site: Site, sandbox: Sandbox) -> None:
    """A plugin that is delegated to omits interfaces. Nobody delegates to us: we always made an interface."""
    ip = site.add(sandbox).ok()["ips"][0]
    assert ip["interface"] == 0


def test_p30_code_2_names_key_and_value_and_code_4_the_variables(site: Site, sandbox: Sandbox) -> None:
    site.add(sandbox, config(ipMasq=True)).error(2, "ipMasq", "true")
    site.add(sandbox, CNI_CONTAINERID=None, CNI_IFNAME=None).error(4, "CNI_CONTAINERID", "CNI_IFNAME")


def test_p31_unknown_and_reserved_fields_are_accepted(site: Site, sandbox: Sandbox) -> None:
    extra: Json = {"x-vendor": {"a": [1]}, "args": {"cni": {"ips": []}}, "runtimeConfig": {"portMappings": []}}
    site.add(sandbox, config(**extra) | {"cni.dev/future": True}).ok()


def test_results_survive_a_round_trip_through_the_chain(site: Site, sandbox: Sandbox) -> None:
    """What we print is what a later CHECK and DEL get back."""
    result = json.loads(json.dumps(site.add(sandbox).ok()))
    check(site, sandbox, result).ok()
    site.delete(sandbox, config(prevResult=result)).ok()
