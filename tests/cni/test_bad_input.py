"""Whatever comes in: a clear error that names the field, and the gateway stays up."""

import json
import socket

import pytest

from tests.cni.fakes import FakeSite
from tests.cni.site import Json, Sandbox, config

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def gateway_survives(site: FakeSite) -> object:
    before = site.gateway_pid
    yield
    assert site.gateway_pid == before
    site.plugin.run("STATUS", config()).ok()


@pytest.mark.parametrize(
    "stdin",
    [b"", b"{", b"nonsense", b"{'single': 1}", b'{"name": "\xff"}', b"\0" * 100, b'{"x": ' + b"[" * 100_000],
    ids=["empty", "cut", "words", "quotes", "not-utf8", "zeros", "deep"],
)
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_not_json(site: FakeSite, sandbox: Sandbox, command: str, stdin: bytes) -> None:
    site.plugin.run(command, stdin, sandbox.env).error(6, "JSON")


@pytest.mark.parametrize("size", [5 << 20, 10_000_000], ids=["5MiB", "10MB"])
@pytest.mark.parametrize("command", ["ADD", "DEL", "GC"])
def test_much_too_long(site: FakeSite, sandbox: Sandbox, command: str, size: int) -> None:
    stdin = json.dumps(config(padding="x" * size)).encode()
    site.plugin.run(command, stdin, sandbox.env).error(7, "4194304")


def test_as_long_as_allowed(site: FakeSite, sandbox: Sandbox) -> None:
    bare = len(json.dumps(config(padding="")))
    site.plugin.run("ADD", config(padding="x" * ((4 << 20) - bare)), sandbox.env).ok()


WRONG: list[tuple[Json | list[int], str]] = [
    ([1], "stdin"),
    ({"cniVersion": 1}, "cniVersion"),
    ({"name": ["terway"]}, "name"),
    ({"type": {}}, "type"),
    ({"mtu": "1500"}, "mtu"),
    ({"mtu": 20}, "mtu"),
    ({"mtu": 70000}, "mtu"),
    ({"prevResult": "x"}, "prevResult"),
    ({"prevResult": {"interfaces": {}}}, "prevResult"),
    ({"prevResult": {"interfaces": [{"name": 5}]}}, "name"),
    ({"prevResult": {"ips": [{"address": "10.0.0.1/8", "interface": 3}]}}, "interface 3"),
    ({"prevResult": {"ips": [{}]}}, "address"),
    ({"prevResult": {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/8"}}}, "cniVersion"),
    ({"runtimeConfig": 5}, "runtimeConfig"),
    ({"runtimeConfig": {"bandwidth": {"ingressRate": "fast"}}}, "bandwidth"),
    ({"runtimeConfig": {"bandwidth": {"ingressRate": -5}}}, "bandwidth"),
    ({"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"a": 1}}}, "pod-annotations"),
    ({"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"bad": "x"}}}, "annotation bad"),
    ({"host_stack_cidrs": ["10.0.0.0/33"]}, "host_stack_cidrs"),
    ({"host_stack_cidrs": "10.0.0.0/8"}, "host_stack_cidrs"),
    ({"disable_host_peer": "yes"}, "disable_host_peer: expected bool | null, got str"),
    ({"dns": []}, "dns"),
]


@pytest.mark.parametrize(("wrong", "named"), WRONG, ids=[str(w) for w, _ in WRONG])
def test_wrong_types_and_values(site: FakeSite, sandbox: Sandbox, wrong: Json | list[int], named: str) -> None:
    stdin = config() | wrong if isinstance(wrong, dict) else wrong
    site.plugin.run("ADD", json.dumps(stdin).encode(), sandbox.env).error(7, named)
    assert site.held() == set()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ("", "K8S_POD_NAMESPACE"),
        ("K8S_POD_NAMESPACE=shop", "K8S_POD_NAME"),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=", "K8S_POD_NAME"),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a/b", "a/b"),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=" + "a" * 254, "K8S_POD_NAME"),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;UNKNOWN=1", "UNKNOWN"),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME", "NAME=value"),
    ],
)
def test_bad_cni_args(site: FakeSite, sandbox: Sandbox, args: str, named: str) -> None:
    site.add(sandbox, CNI_ARGS=args).error(4, "CNI_ARGS", named)
    assert site.held() == set()


def test_bad_cni_args_do_not_keep_a_pod_from_going(site: FakeSite, sandbox: Sandbox) -> None:
    site.add(sandbox).ok()
    site.delete(sandbox, CNI_ARGS="nonsense").ok()


def test_variables_that_are_not_utf8(site: FakeSite, sandbox: Sandbox) -> None:
    env = {**sandbox.env, "CNI_CONTAINERID": b"abc\xff".decode(errors="surrogateescape")}
    site.plugin.run("ADD", config(), env).error(4, "CNI_CONTAINERID")


def test_garbage_at_the_gateways_socket(site: FakeSite) -> None:

    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"x" * 1000,
        b"terway-cni/1 none 5 99999999 0\n",
        b"terway-cni/2 none 5 0 0\n",
    ):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(5)
            caller.connect(str(site.dir / "run/gateway.sock"))
            caller.sendall(garbage)
            assert caller.recv(100) == b""


def test_a_bug_in_a_neighbour_is_999(site: FakeSite, sandbox: Sandbox) -> None:
    site.neighbours.faults["eni.plug"] = ZeroDivisionError("on purpose")
    site.add(sandbox).error(999)
    site.neighbours.faults.clear()
    assert site.held() == set()
