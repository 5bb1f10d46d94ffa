"""What containerd and a kubelet really send, and where their namespaces are."""

import itertools
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from shared.contracts.ipam import Bandwidth
from tests.cni.fakes import FakeSite, until
from tests.cni.site import Json, Plugin, Sandbox, config

pytestmark = pytest.mark.system

ANNOTATIONS = "io.kubernetes.cri.pod-annotations"


def test_cni_args_in_any_order(site: FakeSite, sandbox: Sandbox) -> None:
    pairs = ["K8S_POD_NAME=web-0", "K8S_POD_NAMESPACE=shop", "K8S_POD_UID=u1", "IgnoreUnknown=1", "X=y"]
    for order in itertools.islice(itertools.permutations(pairs), 0, 120, 17):
        site.add(sandbox, CNI_ARGS=";".join(order)).ok()
        asked = site.neighbours.acquired[-1]
        assert (str(asked.pod), asked.pod_uid) == ("shop/web-0", "u1")


@pytest.mark.parametrize(("given", "expected"), [(None, None), ({}, {}), ({"k8s.aliyun.com/x": "ü"},) * 2])
def test_annotations_from_the_runtime(
    site: FakeSite, sandbox: Sandbox, given: dict[str, str] | None, expected: dict[str, str] | None
) -> None:
    runtime: Json = {} if given is None else {ANNOTATIONS: given}
    site.add(sandbox, config(runtimeConfig=runtime)).ok()
    assert site.neighbours.acquired[-1].annotations == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ingressRate": 8_000_000, "ingressBurst": 80, "egressRate": 16_000_000}, Bandwidth(1_000_000, 2_000_000)),
        ({"IngressRate": 8_000_000, "IngressBurst": 80, "EgressRate": 0, "EgressBurst": 0}, Bandwidth(1_000_000, None)),
        ({"egressRate": 4}, Bandwidth(None, 1)),
        ({"ingressRate": 0, "egressRate": None}, None),
        (None, None),
    ],
    ids=["conventions", "go-style", "tiny", "nothing", "null"],
)
def test_bandwidth_in_bytes(
    site: FakeSite, sandbox: Sandbox, given: dict[str, int | None] | None, expected: Bandwidth | None
) -> None:
    site.add(sandbox, config(runtimeConfig={"bandwidth": given})).ok()
    assert site.neighbours.acquired[-1].bandwidth == expected


def test_mtu_of_the_configuration(site: FakeSite, sandbox: Sandbox) -> None:
    assert site.add(sandbox, config(mtu=1400)).ok()["interfaces"][0]["mtu"] == 1400
    site.add(sandbox, config(mtu=0)).ok()
    assert [plug.mtu for plug in site.neighbours.plugs] == [1400, None]


def test_dns_of_the_configuration(site: FakeSite, sandbox: Sandbox) -> None:
    dns = {"nameservers": ["10.0.0.10"], "search": ["svc.cluster.local"]}
    assert site.add(sandbox, config(dns=dns)).ok()["dns"] == dns


@pytest.mark.parametrize("version", ["0.4.0", "1.1.0"])
def test_both_families(site: FakeSite, sandbox: Sandbox, version: str) -> None:
    site.neighbours.families = (4, 6)
    ips = site.add(sandbox, config(version)).ok()["ips"]
    assert [ip["address"] for ip in ips] == ["192.168.0.11/20", "fd00:0:0:1::b/64"]
    assert [ip.get("version") for ip in ips] == (["4", "6"] if version == "0.4.0" else [None, None])


def test_two_sandboxes_of_one_pod(site: FakeSite, sandbox: Sandbox) -> None:
    with site.sandbox() as second:
        first, later = site.add(sandbox).ok(), site.add(second).ok()
        assert first["ips"] != later["ips"]
        site.delete(sandbox).ok()
        assert site.held() == site.wired() == {(second.id, "eth0")}
        site.delete(second).ok()


def test_add_repeated_gives_the_same_answer(site: FakeSite, sandbox: Sandbox) -> None:
    assert site.add(sandbox).ok() == site.add(sandbox).ok()


def test_netns_that_only_the_runtime_can_see(site: FakeSite, sandbox: Sandbox, tmp_path: Path) -> None:
    """containerd's netns_mounts_under_state_dir: the path means nothing to a service outside of its mounts."""
    private = tmp_path / "netns"
    enter = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'mount -t tmpfs none {tmp_path} && touch {private} && mount --bind {sandbox.netns} {private} && exec "$0"',
    )
    plugin = Plugin(site.plugin.file, prefix=enter)
    result = plugin.run("ADD", config(), {**sandbox.env, "CNI_NETNS": str(private)}).ok()
    assert not private.exists()
    assert result["interfaces"][0]["sandbox"] == str(private)
    assert next(iter(site.neighbours.wired.values())) == (os.stat(sandbox.netns).st_ino, "eth0")
    check = config(prevResult=result)
    plugin.run("CHECK", check, {**sandbox.env, "CNI_NETNS": str(private)}).ok()
    plugin.run("DEL", check, {**sandbox.env, "CNI_NETNS": str(private)}).ok()
    assert site.held() == site.wired() == set()


def test_one_request_id_through_all_services(site: FakeSite, sandbox: Sandbox) -> None:
    site.add(sandbox).ok()
    assert len(site.neighbours.request_ids) == 3
    (request_id,) = set(site.neighbours.request_ids)
    assert request_id
    until(lambda: request_id in site.log.read_text(), "it is logged")
    (logged,) = (json.loads(line) for line in site.log.read_text().splitlines() if request_id in line)
    assert (logged["event"], logged["container"]) == ("answered", sandbox.id)


def test_http_face(site: FakeSite, sandbox: Sandbox) -> None:
    port = [json.loads(line)["port"] for line in site.log.read_text().splitlines() if "http_serving" in line][-1]

    def get(page: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    site.add(sandbox).ok()
    assert get("/healthz")[0] == 200
    until(lambda: get("/readyz")[0] == 200, "all neighbours are seen")
    with site.away("policy"):
        until(lambda: get("/readyz")[0] == 503, "policy is missed")
        assert "policy" in get("/readyz")[1]
    state = json.loads(get("/state")[1])
    assert state["deferred_deletes"] == 0 and set(state["peers"]) == {"ipam", "eni_manager", "policy"}
    metrics = get("/metrics")[1]
    assert 'terway_cni_calls_total{code="0",command="ADD"}' in metrics
    assert "terway_cni_deferred_deletes 0.0" in metrics
